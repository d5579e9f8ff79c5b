"""The trainer: fine-tunes from the live model, exports, judges at the gate, promotes. The only program that imports torch."""
