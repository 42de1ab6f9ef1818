from .plan import Plan as Plan
from .plan import StagePlan as StagePlan
from .plan import plan_recipe as plan_recipe
from .speed import Prediction as Prediction
from .speed import compare_prediction as compare_prediction
from .speed import format_prediction as format_prediction
from .speed import predict_stage as predict_stage
from .view import print_plan as print_plan
