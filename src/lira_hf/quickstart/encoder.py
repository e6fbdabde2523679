"""The quickstart's multilingual encoder g: the n-gram encoder, distilled towards an English teacher on parallel
text."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PrinterCallback, Trainer, TrainingArguments

from lira_hf.encoders import NgramEncoderConfig, NgramEncoderModel, NgramTokenizer


__all__ = ["Distiller", "distil_encoder"]

logger = logging.getLogger(__name__)


class Distiller(nn.Module):
    """
    Pulls g(x) to the teacher's vector of x's English: 1 - cos, and InfoNCE over the batch, since 1 - cos alone lets
    every text drift to the mean.

    Args:
        encoder ([`NgramEncoderModel`]): The student.
        temperature (`float`, *optional*, defaults to 0.05): Of InfoNCE.
    """

    def __init__(self, encoder: NgramEncoderModel, temperature: float = 0.05):
        super().__init__()
        self.encoder = encoder
        self.temperature = temperature

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, labels: torch.Tensor, rows: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """
        Args:
            input_ids, attention_mask (`torch.Tensor` of shape `(batch, tokens)`): The texts.
            labels (`torch.Tensor` of shape `(batch, dim)`): The teacher's unit vectors.
            rows (`torch.Tensor` of shape `(batch,)`): Which English each text has; equal ones are no negatives.
        """
        student = F.normalize(self.encoder.get_text_features(input_ids, attention_mask), dim=-1)
        logits = student @ labels.T / self.temperature
        same = (rows[:, None] == rows[None, :]).fill_diagonal_(False)
        target = torch.arange(len(rows), device=rows.device)
        contrast = F.cross_entropy(logits.masked_fill(same, float("-inf")), target)
        return {"loss": contrast + (1.0 - (student * labels).sum(-1)).mean()}


def distil_encoder(
    folder: str | os.PathLike,
    tokens: Sequence[Sequence[int]],
    english: Sequence[str],
    teacher: NDArray[np.float32],
    epochs: float = 5.0,
    learning_rate: float = 0.04,
    batch_size: int = 1024,
    seed: int = 0,
    progress: bool = True,
) -> Path:
    """
    Trains the encoder and saves it with its tokenizer.

    Args:
        folder (`str` or `os.PathLike`): Where it is saved, as any Transformers checkpoint.
        tokens (`Sequence[Sequence[int]]`): Training texts of all languages, as ids of [`NgramTokenizer`].
        english (`Sequence[str]`): The English of each.
        teacher (`np.ndarray` of shape `(texts, dim)`): The teacher's sentence vectors of `english`.
        epochs, learning_rate, batch_size (*optional*): Large batches and steps suit a static encoder.

    Returns:
        `Path`: The folder.
    """
    torch.manual_seed(seed)
    tokenizer = NgramTokenizer()
    config = NgramEncoderConfig(vocab_size=tokenizer.vocab_size, hidden_size=teacher.shape[1])
    model = NgramEncoderModel(config)
    place = {text: number for number, text in enumerate(dict.fromkeys(english))}
    vectors = F.normalize(torch.from_numpy(np.ascontiguousarray(teacher, dtype=np.float32)), dim=-1)
    rows = [
        {"ids": torch.tensor(ids), "vector": vector, "row": place[text]}
        for ids, vector, text in zip(tokens, vectors, english, strict=True)
        if len(ids)
    ]

    def collate(batch: list[dict]) -> dict[str, torch.Tensor]:
        ids = pad_sequence([row["ids"] for row in batch], batch_first=True, padding_value=tokenizer.pad_token_id)
        return {
            "input_ids": ids,
            "attention_mask": (ids != tokenizer.pad_token_id).long(),
            "labels": torch.stack([row["vector"] for row in batch]),
            "rows": torch.tensor([row["row"] for row in batch]),
        }

    args = TrainingArguments(
        output_dir=str(Path(folder) / "trainer"),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=0.1,
        save_strategy="no",
        logging_steps=20,
        report_to="none",
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=not progress,
        seed=seed,
    )
    trainer = Trainer(model=Distiller(model), args=args, train_dataset=rows, data_collator=collate)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Path(folder)
