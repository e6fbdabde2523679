"""The whole forward pass, read off method.md once more: one text at a time, no masks, no batches, plain loops."""

import math

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, normalize, scaled_dot_product_attention

from lira_hf.models.traits_lira import trait_width


def linear(weights: dict, name: str, value: torch.Tensor) -> torch.Tensor:
    return value @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(weights: dict, name: str, value: torch.Tensor) -> torch.Tensor:
    return layer_norm(value, value.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def feed_forward(weights: dict, name: str, value: torch.Tensor) -> torch.Tensor:
    return linear(weights, f"{name}.fc2", gelu(linear(weights, f"{name}.fc1", value)))


def adapt(weights: dict, bins: torch.Tensor, stream: str) -> dict[int, torch.Tensor]:
    """Adapted token of every bin that holds something, by the bin's number."""
    tokens = {}
    for number, row in enumerate(bins):
        if row.any():
            hidden = linear(weights, f"arca.adaptor.{stream}_projection", normalize(row, dim=0))
            tokens[number] = hidden + feed_forward(weights, "arca.adaptor", norm(weights, "arca.adaptor.norm", hidden))
    return tokens


def standardised(values: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + 1e-6)
    return [(value - mean) / deviation for value in values]


def beside_others(rows: list[list[float]]) -> list[list[float]]:
    columns = list(zip(*rows, strict=True))
    means, best = [sum(column) / len(rows) for column in columns], [max(column) for column in columns]
    return [
        [*row, *(v - m for v, m in zip(row, means, strict=True)), *(v - b for v, b in zip(row, best, strict=True))]
        for row in rows
    ]


def policy_by_hand(weights, config, source, candidates, sentences, scores, traits) -> list[float]:
    def sentence(tokens):
        return normalize(torch.stack(list(tokens.values())).mean(0), dim=0)

    sims = [float(sentence(source) @ sentence(tokens)) if source else 0.0 for tokens in candidates]
    others = [[float(a @ b) for j, b in enumerate(sentences) if j != k] for k, a in enumerate(sentences)]
    consensus = [sum(row) / len(row) if row else 0.0 for row in others]
    columns = (scores, sims, standardised(sims), consensus, standardised(consensus), traits)
    seen = beside_others(
        [
            [*(value / 10 if all(judged) else 0.0 for value in judged), float(all(judged)), *critic, *free]
            for judged, *critic, free in zip(*columns, strict=True)
        ]
    )
    known = [row for row in scores if all(row)]
    mean_score = [sum(column) / len(known) for column in zip(*known, strict=True)] if known else [0.0] * 3
    logits = []
    for judged, row in zip(scores, seen, strict=True):
        worth = judged if all(judged) else mean_score  # silence is neither praise nor blame
        prior = sum(weight * value / 10 for weight, value in zip(config.reward_weights[:3], worth, strict=True))
        logit = config.policy_prior * prior + feed_forward(weights, "arca.actor", torch.tensor(row)).item()
        logits.append(logit / config.policy_temperature)
    return torch.tensor(logits).softmax(0).tolist()


def mix(policy: list[float], candidates: list[dict], sentences: list[torch.Tensor]):
    """A bin's token is the mean of the candidates that reach it, by the policy; so is the sentence."""
    tokens = {}
    for number in sorted({number for tokens in candidates for number in tokens}):
        share = {k: policy[k] for k, row in enumerate(candidates) if number in row}
        tokens[number] = sum(w * candidates[k][number] for k, w in share.items()) / sum(share.values())
    return tokens, sum(weight * vector for weight, vector in zip(policy, sentences, strict=True))


def fused_mean(weights: dict, config, source: dict, anchor: dict, language: int) -> torch.Tensor:
    rows = []
    for path, tokens in enumerate((source, anchor)):
        for number, token in tokens.items():
            place = weights["fusion.path_embedding"][path] + weights["fusion.bin_embedding"][number]
            rows.append(token + place + weights["fusion.language_embedding.weight"][language])
    hidden, heads = torch.stack(rows), config.num_attention_heads
    for layer in range(config.num_fusion_layers):
        name = f"fusion.layers.{layer}"
        first = norm(weights, f"{name}.norm1", hidden)
        query, key, value = (
            linear(weights, f"{name}.attention.{part}_proj", first).view(len(rows), heads, -1).transpose(0, 1)
            for part in "qkv"
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(0, 1).reshape(len(rows), -1)
        hidden = hidden + linear(weights, f"{name}.attention.o_proj", attended)
        hidden = hidden + feed_forward(weights, name, norm(weights, f"{name}.norm2", hidden))
    return norm(weights, "fusion.norm", hidden).mean(0)


def gate_by_hand(weights, config, source, anchors, sentences, policy) -> float:
    """The multilingual road's share: the constant, moved by what is known of the candidates."""
    facts = torch.zeros(6)
    if anchors:
        sim = [
            float(
                normalize(torch.stack(list(source.values())).mean(0), dim=0)
                @ normalize(torch.stack(list(a.values())).mean(0), dim=0)
            )
            if source
            else 0.0
            for a in anchors
        ]
        mean = sum(sim) / len(sim)
        mixed = sum(p * vector for p, vector in zip(policy, sentences, strict=True))
        facts = torch.tensor(
            [
                mixed.norm().item(),
                sum(p * value for p, value in zip(policy, sim, strict=True)),
                math.sqrt(sum((value - mean) ** 2 for value in sim) / len(sim)),
                -sum(p * math.log(p) for p in policy),
                max(policy),
                math.log(1 + len(anchors)),
            ]
        )
    hidden = gelu(linear(weights, "embedding_head.gate_fc1", facts))
    w = config.path_weight
    return torch.sigmoid(math.log(w / (1 - w)) + linear(weights, "embedding_head.gate_fc2", hidden)).item()


def embed_by_hand(model, source, candidates, scores, traits, language: int) -> tuple[torch.Tensor, list[float]]:
    weights, config = model.state_dict(), model.config
    source_tokens = adapt(weights, source[1:], "source")
    anchors = [adapt(weights, row[1:], "anchor") for row in candidates]
    sentences = [normalize(row[0], dim=0) for row in candidates]
    policy = policy_by_hand(weights, config, source_tokens, anchors, sentences, scores, traits) if anchors else []
    anchor_tokens, h = mix(policy, anchors, sentences) if anchors else ({}, torch.zeros(config.anchor_dim))
    w = config.path_weight
    if config.path_gate:
        w = gate_by_hand(weights, config, source_tokens, anchors, sentences, policy)
    start = torch.cat([w**0.5 * normalize(source[0], dim=0), (1 - w) ** 0.5 * normalize(h, dim=0)])
    pooled = fused_mean(weights, config, source_tokens, anchor_tokens, language)
    delta = linear(weights, "embedding_head.delta", gelu(linear(weights, "embedding_head.fc1", pooled)))
    start = normalize(start, dim=0)
    return normalize(start + delta + weights["embedding_head.start_map.weight"] @ start, dim=0), policy


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"path_weight": 0.8, "policy_temperature": 2.0, "policy_prior": 1.0},
        {"path_weight": 0.6, "path_gate": True},
    ],
)
def test_forward_equals_plain_loops(lira, settings):
    model = lira(
        num_fusion_layers=2,
        languages=["bn", "ur"],
        reward_weights=[1.0, 0.5, 0.2, 3.0],
        candidate_kinds=["gloss"],
        **settings,
    )
    generator = torch.Generator().manual_seed(4)
    source, anchor = torch.randn(6, 4, 16, generator=generator), torch.randn(6, 4, 4, 24, generator=generator)
    scores = torch.randint(1, 11, (6, 4, 3), generator=generator).float()
    # Short texts leave their last bins empty; candidates, scores and whole roads may be absent.
    source[1, 2:], source[4] = 0, 0
    anchor[0, 1, 3:], anchor[0, 2, 2:], anchor[1, 2:], anchor[2, 1:], anchor[3] = 0, 0, 0, 0, 0
    scores[0, 1], scores[4] = 0, 0
    traits = torch.randn(6, 4, trait_width(model.config.candidate_kinds), generator=generator)
    languages = torch.tensor([0, 1, 2, 1, 0, 2])
    tensors = {"source_features": source, "anchor_features": anchor, "anchor_scores": scores}
    with torch.no_grad():
        output = model(**tensors, anchor_traits=traits, language_ids=languages)
        for row in range(6):
            present = [k for k in range(4) if anchor[row, k].any()]
            known = (list(anchor[row, present]), scores[row, present].tolist(), traits[row, present].tolist())
            expected, policy = embed_by_hand(model, source[row], *known, int(languages[row]))
            torch.testing.assert_close(output.policy[row, present], torch.tensor(policy), rtol=0, atol=1e-5)
            torch.testing.assert_close(output.pooler_output[row], expected, rtol=0, atol=1e-5)
