"""
Losses and queues as pure tensor modules: LaSR's, and Arca's, which lie in `models` because a checkpoint carries them.
"""

from lira_hf.losses.consistency import consistency_loss
from lira_hf.losses.correlation import (
    CorrelationLoss,
    CorrelationOutput,
    pearson_correlation,
    soft_spearman_correlation,
)
from lira_hf.losses.hinge import hinge_loss
from lira_hf.losses.info_nce import info_nce_loss
from lira_hf.losses.mean_variance import mean_variance_loss
from lira_hf.losses.queue_state import QUEUE_STATE_NAME, load_queue_state, save_queue_state
from lira_hf.losses.queues import CorrEntries, CorrQueue, DocEntries, DocQueue, FIFOQueue
from lira_hf.losses.regulariser import start_regulariser
from lira_hf.losses.retrieval import RetrievalLoss, RetrievalOutput
from lira_hf.losses.safe_negatives import SafeNegatives, safe_negative_mask
from lira_hf.losses.soft_ndcg import soft_ndcg_loss
from lira_hf.models.loss_arca import (
    anchor_loss,
    candidate_reward,
    contrastive_loss,
    cosine_anchor_loss,
    policy_loss,
)


__all__ = [
    "QUEUE_STATE_NAME",
    "CorrEntries",
    "CorrQueue",
    "CorrelationLoss",
    "CorrelationOutput",
    "DocEntries",
    "DocQueue",
    "FIFOQueue",
    "RetrievalLoss",
    "RetrievalOutput",
    "SafeNegatives",
    "anchor_loss",
    "candidate_reward",
    "consistency_loss",
    "contrastive_loss",
    "cosine_anchor_loss",
    "hinge_loss",
    "info_nce_loss",
    "load_queue_state",
    "mean_variance_loss",
    "pearson_correlation",
    "policy_loss",
    "safe_negative_mask",
    "save_queue_state",
    "soft_ndcg_loss",
    "soft_spearman_correlation",
    "start_regulariser",
]
