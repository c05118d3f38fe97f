"""The data sets by name; each is a file here, and a line below."""

from iqa_jax.data.datasets.csiq import Csiq
from iqa_jax.data.datasets.iqa_demo import IqaDemo, IqaDemoUnlabelled
from iqa_jax.data.datasets.kadid10k import Kadid10k
from iqa_jax.data.datasets.live import Live
from iqa_jax.data.datasets.pairs import Pairs
from iqa_jax.data.datasets.pipal import Pipal
from iqa_jax.data.datasets.tid2013 import Tid2013

DATASETS = {
    "iqa_demo": IqaDemo,
    "iqa_demo_unlabelled": IqaDemoUnlabelled,
    "pipal": Pipal,
    "kadid10k": Kadid10k,
    "tid2013": Tid2013,
    "csiq": Csiq,
    "live": Live,
    "pairs": Pairs,
}
