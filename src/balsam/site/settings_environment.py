"""Settings of a Site that an environment variable overrides, for the agent that is started with it."""

from collections.abc import Mapping

from balsam.site.settings import LoggingSettings, Settings
from balsam.site.settings_file import SettingsError, Where

LOG_LEVEL = "BALSAM_LOG_LEVEL"


def in_effect(settings: Settings, environ: Mapping[str, str]) -> tuple[Settings, dict[Where, str]]:
    """The settings with the variables applied, and which variable decided what. Raises SettingsError."""
    level = environ.get(LOG_LEVEL)
    if not level:
        return settings, {}
    try:
        logging = LoggingSettings.model_validate({**settings.logging.model_dump(), "level": level})
    except ValueError as error:
        known = "DEBUG, INFO, WARNING, ERROR or CRITICAL"
        raise SettingsError(f"the environment variable {LOG_LEVEL} is {level!r}; it must be {known}") from error
    return settings.model_copy(update={"logging": logging}), {("logging", "level"): LOG_LEVEL}
