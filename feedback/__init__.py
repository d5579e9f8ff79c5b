"""The feedback consumer: joins feedback to predictions, cleans, judges, scores and stores it as Examples."""
