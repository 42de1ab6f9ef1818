from .bootstrap import interval as interval
from .bootstrap import resampled_sums as resampled_sums
from .scoring import Measured as Measured
from .scoring import language_modeling as language_modeling
from .scoring import measure as measure
from .scoring import measure_all as measure_all
from .scoring import score as score
