"""Plans that a user keeps by name, for every sampling call as the schedule `saved:NAME` (`workbench.samplers.saved`)."""

from workbench.samplers.saved import SAVED, check_steps, folder, is_learned, is_saved, load, names, plan_of, save

__all__ = ["SAVED", "check_steps", "folder", "is_learned", "is_saved", "load", "names", "plan_of", "save"]
