"""How inputs become those of an example, wherever they come from: cleaned, masked, checked, identified."""

from core.events import Inputs
from core.examples import example_id
from core.masking import Masker
from core.settings import Settings
from core.tasks import get_task
from feedback.cleaning import Cleaner


class InputsReader:
    """Reads inputs by the settings."""

    def __init__(self, settings: Settings, key: bytes) -> None:
        """Raises BadSettings for an unknown task, or for what cannot mask."""
        self._settings = settings
        self._key = key
        self._cleaner = Cleaner.of(settings)
        self._masker = Masker.of(settings.masking_policy)
        self._task = get_task(settings.task)

    def read(self, raw: Inputs) -> tuple[Inputs, str]:
        """The inputs as they are stored, and the example's id. Raises InvalidInput."""
        # Masked again: what the cleaning brings to light was hidden from those before.
        masked = self._masker.mask_inputs(self._cleaner.clean(raw))
        inputs = self._task.parse_inputs(masked, max_chars=self._settings.max_text_chars)
        return inputs, example_id(self._key, model=self._settings.model, task=self._task.name, inputs=inputs)
