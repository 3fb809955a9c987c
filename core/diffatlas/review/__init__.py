"""The review of a cohort: what a person said of each case, and what is made of it: a table, a training run."""

from diffatlas.review.table import TABLE as TABLE
from diffatlas.review.table import doubt_of as doubt_of
from diffatlas.review.table import write_table as write_table
from diffatlas.review.training import write_training as write_training
from diffatlas.review.verdicts import FILE as FILE
from diffatlas.review.verdicts import FOLDER as FOLDER
from diffatlas.review.verdicts import State as State
from diffatlas.review.verdicts import Verdict as Verdict
from diffatlas.review.verdicts import add as add
from diffatlas.review.verdicts import read as read
from diffatlas.review.verdicts import verdict as verdict
