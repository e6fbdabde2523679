"""The embedding: its start is [g; h] exactly, and only what a text and its candidates say can change it."""

import copy

import pytest
import torch
from transformers import AutoModel, AutoModelForTextEncoding


ENCODERS = ["bert", "xlm-roberta", "t5", "qwen3", "modernbert", "lira_ngram"]


def close(found: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def embed():
    def run(model, **inputs) -> torch.Tensor:
        with torch.no_grad():
            return model(**inputs).pooler_output

    return run


@pytest.fixture(scope="module")
def stack(pad):
    """`stack(rows)`: anchor ids and mask `(batch, K, tokens)` of ragged lists of candidates."""

    def make(rows: list[list[torch.Tensor]], **kwargs) -> dict[str, torch.Tensor]:
        width = max(len(row) for row in rows)
        none = torch.zeros(0, dtype=torch.long)
        ids, mask = pad([item for row in rows for item in row + [none] * (width - len(row))], **kwargs)
        return {"anchor_ids": ids.view(len(rows), width, -1), "anchor_mask": mask.view(len(rows), width, -1)}

    return make


def plain(config, weights: dict, row: torch.Tensor) -> torch.Tensor:
    """A sentence vector by Transformers alone: the mean over one unpadded text."""
    auto = AutoModelForTextEncoding if config.model_type == "t5" else AutoModel
    backbone = auto.from_config(copy.deepcopy(config)).eval()
    backbone.load_state_dict(weights, strict=False)
    with torch.no_grad():
        return torch.nn.functional.normalize(backbone(input_ids=row[None])[0][0].mean(0), dim=0)


@pytest.mark.parametrize("path_weight", [0.5, 0.8])
@pytest.mark.parametrize("encoder", ENCODERS)
def test_an_untrained_model_joins_both_roads_exactly(lira, token_rows, pad, stack, encoder, path_weight):
    model = lira(encoder, "bert", trained=False, path_weight=path_weight)
    texts, candidates = token_rows(7, 4), token_rows(5, 6, 2, seed=2)
    ids, mask = pad(texts)
    with torch.no_grad():
        output = model(source_ids=ids, source_mask=mask, **stack([candidates[:2], candidates[2:]]))
    g = torch.stack([plain(model.encoder.config, model.encoder.state_dict(), row) for row in texts])
    h = [plain(model.anchor.config, model.anchor.state_dict(), row) for row in candidates]
    h = torch.stack([torch.nn.functional.normalize(h[0] + h[1], dim=0), h[2]])  # the untrained policy is uniform
    start = torch.cat([path_weight**0.5 * g, (1 - path_weight) ** 0.5 * h], dim=-1)
    close(output.start_embeds, start, 1e-6)
    close(output.pooler_output, output.start_embeds, 2e-7)
    cosine = output.pooler_output[0] @ output.pooler_output[1]
    close(cosine, path_weight * g[0] @ g[1] + (1 - path_weight) * h[0] @ h[1], 1e-6)


def test_training_moves_the_embedding_off_its_start(lira, token_rows):
    with torch.no_grad():
        output = lira()(source_ids=token_rows(7)[0][None])
    close(output.pooler_output.norm(dim=-1), torch.ones(1))
    assert (output.pooler_output - output.start_embeds).norm() > 0.1


@pytest.mark.parametrize(("encoder", "anchor"), [*zip(ENCODERS, reversed(ENCODERS), strict=True), ("bert", None)])
def test_batch_and_padding_change_nothing(lira, embed, token_rows, pad, stack, encoder, anchor):
    model = lira(encoder, anchor)
    texts = token_rows(7, 1, 20, 4)
    candidates = [token_rows(*lengths, seed=sum(lengths)) for lengths in ((5, 9), (2, 1), (30, 3), (4, 4))]
    alone = [
        embed(model, source_ids=text[None], **stack([row], extra=0))
        for text, row in zip(texts, candidates, strict=True)
    ]
    alone = torch.cat(alone)
    for side in ("right", "left"):
        for extra in (0, 11):
            ids, mask = pad(texts, side, extra)
            found = embed(model, source_ids=ids, source_mask=mask, **stack(candidates, side=side, extra=extra))
            close(found, alone)


@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_padding_changes_nothing_in_other_poolings(lira, embed, token_rows, pad, pooling):
    model = lira("qwen3", None, encoder_pooling=pooling)
    texts = token_rows(6, 3)
    alone = torch.cat([embed(model, input_ids=text[None]) for text in texts])
    for side in ("right", "left"):
        ids, mask = pad(texts, side, 2)
        close(embed(model, input_ids=ids, attention_mask=mask), alone)


def test_one_candidate_as_two_or_three_dimensions(lira, embed, token_rows, pad):
    model = lira()
    ids, mask = pad(token_rows(6, 3))
    anchor, anchor_mask = pad(token_rows(4, 7, seed=2))
    flat = embed(model, source_ids=ids, source_mask=mask, anchor_ids=anchor, anchor_mask=anchor_mask)
    deep = embed(model, source_ids=ids, source_mask=mask, anchor_ids=anchor[:, None], anchor_mask=anchor_mask[:, None])
    assert torch.equal(flat, deep)


def test_cached_features_give_the_embedding_of_the_tokens(lira, embed, token_rows, pad, stack):
    model = lira("xlm-roberta", "t5")
    ids, mask = pad(token_rows(9, 2, 5))
    anchors = stack([token_rows(3, 8), token_rows(4, seed=4), []])
    tokens = embed(model, source_ids=ids, source_mask=mask, **anchors)
    with torch.no_grad():
        source, anchor = model.encode_source(ids, mask), model.encode_anchor(*anchors.values())
    assert source.shape == (3, 4, 16)
    assert anchor.shape == (3, 2, 4, 24)
    assert source.dtype == anchor.dtype == torch.float32
    assert torch.equal(embed(model, source_features=source, anchor_features=anchor), tokens)
    half = embed(model, source_features=source.half(), anchor_features=anchor.half())
    assert half.dtype == torch.float32
    close(half, tokens, 2e-3)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_any_number_of_candidates(lira, embed, token_rows, pad, stack, count):
    model = lira()
    ids, mask = pad(token_rows(6, 3))
    rows = [token_rows(*range(2, 2 + count), seed=1), token_rows(*range(3, 3 + count), seed=2)]
    with torch.no_grad():
        output = model(source_ids=ids, source_mask=mask, **(stack(rows) if count else {}))
    if not count:
        empty = torch.zeros(2, 0, 4, dtype=torch.long)
        close(embed(model, source_ids=ids, source_mask=mask, anchor_ids=empty), output.pooler_output, 0)
        assert output.policy is None
        assert not output.start_embeds[:, 16:].any()
        return
    assert output.similarity.shape == output.policy.shape == (2, count)
    close(output.policy.sum(-1), torch.ones(2))
    assert (output.policy > 0).all()


@pytest.mark.parametrize("mode", ["mixture", "argmax"])
def test_an_absent_candidate_changes_nothing(lira, token_rows, pad, stack, mode):
    model = lira(candidate_mode=mode)
    ids, mask = pad(token_rows(6, 3))
    rows = [token_rows(4, 7, seed=2), token_rows(5, 3, seed=3)]
    scores = torch.tensor([[[9.0, 2, 3], [4, 5, 6]], [[1, 8, 2], [7, 7, 7]]])
    none = torch.zeros(0, dtype=torch.long)
    for place in (0, 1, 2):
        wider = [row[:place] + [none] + row[place:] for row in rows]
        judged = torch.cat([scores[:, :place], torch.full((2, 1, 3), 10.0), scores[:, place:]], dim=1)
        with torch.no_grad():
            narrow = model(source_ids=ids, source_mask=mask, **stack(rows), anchor_scores=scores)
            wide = model(source_ids=ids, source_mask=mask, **stack(wider), anchor_scores=judged)
        close(wide.pooler_output, narrow.pooler_output)
        kept = [k for k in range(3) if k != place]
        close(wide.policy[:, kept], narrow.policy)
        close(wide.similarity[:, kept], narrow.similarity)
        assert not wide.policy[:, place].any()
        assert not wide.similarity[:, place].any()


def test_the_order_of_candidates_changes_nothing(lira, embed, token_rows, pad, stack):
    model = lira()
    ids, mask = pad(token_rows(6, 3))
    rows = [token_rows(4, 7, 1, seed=2), token_rows(5, 3, seed=3)]
    scores = torch.randint(1, 11, (2, 3, 3), generator=torch.Generator().manual_seed(0)).float()
    anchors = stack(rows)
    first = embed(model, source_ids=ids, source_mask=mask, **anchors, anchor_scores=scores)
    for order in ([2, 0, 1], [1, 2, 0], [2, 1, 0]):
        turned = {name: tensor[:, order] for name, tensor in anchors.items()}
        close(embed(model, source_ids=ids, source_mask=mask, **turned, anchor_scores=scores[:, order]), first)


def test_argmax_is_the_chosen_candidate_alone(lira, token_rows, pad, stack):
    model = lira(candidate_mode="argmax")
    ids, mask = pad(token_rows(6, 3, 5))
    rows = [token_rows(4, 7, 12, seed=2), token_rows(5, 3, seed=3), token_rows(2, 2, 9, seed=4)]
    scores = torch.randint(1, 11, (3, 3, 3), generator=torch.Generator().manual_seed(5)).float()
    with torch.no_grad():
        output = model(source_ids=ids, source_mask=mask, **stack(rows), anchor_scores=scores)
        chosen = output.policy.argmax(-1).tolist()
        assert len(set(chosen)) > 1
        only = model(
            source_ids=ids, source_mask=mask, **stack([[row[k]] for row, k in zip(rows, chosen, strict=True)])
        )
        close(output.pooler_output, only.pooler_output)
        model.config.candidate_mode = "mixture"
        mixed = model(source_ids=ids, source_mask=mask, **stack(rows), anchor_scores=scores)
        assert (mixed.pooler_output - output.pooler_output).abs().max() > 1e-3
        # A mixture grows into the argmax as its temperature falls.
        model.arca.actor.temperature = 1e-3
        sharp = model(source_ids=ids, source_mask=mask, **stack(rows), anchor_scores=scores)
        close(sharp.pooler_output, output.pooler_output)


def test_the_untrained_policy_is_the_judge(lira, token_rows, stack):
    model = lira(trained=False, policy_prior=2.0, policy_temperature=0.5, reward_weights=[1.0, 0.5, 0.0, 3.0])
    scores = torch.tensor([[[8.0, 6, 1], [3, 2, 10], [0, 0, 0]]])
    with torch.no_grad():
        output = model(**stack([token_rows(4, 6, 2)]), anchor_scores=scores)
    # The third was not judged and counts as the mean of the other two.
    close(output.policy, torch.softmax(torch.tensor([[1.1, 0.4, 0.75]]) * 2.0 / 0.5, dim=-1))


@pytest.mark.parametrize(("encoder", "anchor"), [("bert", "t5"), ("lira_ngram", None)])
def test_a_road_that_is_absent_in_some_rows_only(lira, token_rows, pad, stack, encoder, anchor):
    """Rows: both roads, no candidate, no text, nothing."""
    model = lira(encoder, anchor)
    none = torch.zeros(0, dtype=torch.long)
    text, other = token_rows(6, 4)
    rows = [token_rows(4, 7, seed=2), [], token_rows(3, 5, 1, seed=3), []]
    ids, mask = pad([text, other, none, none], side="left")
    with torch.no_grad():
        output = model(source_ids=ids, source_mask=mask, **stack(rows), output_paths=True)
        alone = [
            model(source_ids=text[None], **stack([rows[0]])),
            model(source_ids=other[None]),
            model(**stack([rows[2]])),
        ]
    for name in ("pooler_output", "start_embeds"):
        found = getattr(output, name)
        close(found[:3], torch.cat([getattr(single, name) for single in alone]))
        assert not found[3].any()
    assert not output.start_embeds[2, : model.config.source_dim].any()
    close(output.pooler_output.norm(dim=-1), torch.tensor([1.0, 1, 1, 0]))
    # By one road alone; Arca has weighed the candidates with the text in sight.
    with torch.no_grad():
        source = model(source_ids=ids, source_mask=mask)
        anchors = model(source_ids=ids, source_mask=mask, **stack(rows), keep_source=torch.zeros(4, dtype=torch.bool))
    close(output.source_path_embeds, source.pooler_output)
    close(output.anchor_path_embeds, anchors.pooler_output)
    close(output.anchor_path_embeds[2], output.pooler_output[2])
    assert not output.anchor_path_embeds[[1, 3]].any()
    assert (output.anchor_path_embeds[0] - output.pooler_output[0]).abs().max() > 1e-2
    kept = torch.tensor([True, True, True, True]), torch.tensor([False, True, True, True])
    with torch.no_grad():
        dropped = model(source_ids=ids, source_mask=mask, **stack(rows), keep_source=kept[0], keep_anchor=kept[1])
    close(dropped.pooler_output[0], source.pooler_output[0])
    close(dropped.pooler_output[1:], output.pooler_output[1:])


@pytest.mark.parametrize("road", ["source", "anchor"])
def test_a_road_that_the_whole_batch_lacks_costs_nothing_and_changes_nothing(lira, token_rows, stack, road):
    model = lira("bert", "bert")
    ids, anchor = torch.stack(token_rows(6, 6, 6)), stack([[row] for row in token_rows(5, 4, 3, seed=2)])
    widths = []
    model.fusion.layers[0].register_forward_hook(lambda _, given, output: widths.append(given[0].shape[1]))
    with torch.no_grad():
        none = torch.zeros(3, dtype=torch.bool)
        both = model(source_ids=ids, **anchor, **{f"keep_{'anchor' if road == 'source' else 'source'}": none})
        alone = model(source_ids=ids) if road == "source" else model(**anchor)
    bins = model.config.num_bins
    assert widths == [2 * bins, bins]
    torch.testing.assert_close(alone.pooler_output, both.pooler_output, atol=1e-6, rtol=1e-5)
    assert torch.equal(alone.fusion_mask, both.fusion_mask)
    half = slice(0, bins) if road == "source" else slice(bins, None)
    torch.testing.assert_close(alone.last_hidden_state[:, half], both.last_hidden_state[:, half], atol=1e-5, rtol=1e-5)


def test_a_road_can_be_taken_from_single_rows(lira, embed, token_rows, pad, stack):
    """With one candidate there is no choice to make, so a dropped road leaves no trace at all."""
    model = lira()
    ids, mask = pad(token_rows(6, 4, 5))
    anchors = stack([[row] for row in token_rows(3, 7, 2, seed=2)])
    keep = {"keep_source": torch.tensor([False, True, True]), "keep_anchor": torch.tensor([True, False, True])}
    found = embed(model, source_ids=ids, source_mask=mask, **anchors, **keep)
    close(found[0], embed(model, **anchors)[0])
    close(found[1], embed(model, source_ids=ids, source_mask=mask)[1])
    close(found[2], embed(model, source_ids=ids, source_mask=mask, **anchors)[2])


def test_a_candidate_of_next_to_no_weight_counts_as_absent(lira, token_rows, stack):
    model = lira(policy_temperature=0.3)
    short, long = token_rows(1, 12, seed=2)
    with torch.no_grad():
        scores = torch.tensor([[[10.0, 10, 10], [1, 1, 1]]])
        output = model(**stack([[short, long]]), anchor_scores=scores)
        assert 1e-30 < output.policy[0, 1] < 1e-7
        close(output.pooler_output, model(**stack([[short]])).pooler_output)


def test_missing_roads_give_finite_gradients(lira, token_rows, pad, stack):
    model = lira("bert", "modernbert", languages=["bn"]).freeze(encoder=False, anchor=False).train()
    none = torch.zeros(0, dtype=torch.long)
    ids, mask = pad([*token_rows(6, 4), none, none])
    rows = [token_rows(4, 7, seed=2), [], token_rows(3, 5, 1, seed=3), []]
    output = model(source_ids=ids, source_mask=mask, **stack(rows), return_loss=True, output_paths=True)
    total = (
        output.loss + output.pooler_output.sum() + output.anchor_path_embeds.sum() + output.source_path_embeds.sum()
    )
    total.backward()
    grads = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    for name in ("encoder.embeddings.word_embeddings.weight", "anchor.embeddings.tok_embeddings.weight"):
        assert grads[name].any(), name


def test_languages_have_an_embedding_of_their_own(lira, embed, token_rows):
    model = lira(languages=["bn", "ur"])
    ids = token_rows(6)[0].expand(4, -1)
    found = embed(model, source_ids=ids, language_ids=torch.tensor([0, 1, 2, 1]))
    close(found[1], found[3])
    assert (found[0] - found[1]).abs().max() > 1e-3
    assert (found[2] - found[1]).abs().max() > 1e-3
    close(embed(model, source_ids=ids[:1]), found[:1])  # no tag is "unknown"


def test_missing_and_doubled_inputs_are_refused(lira, token_rows):
    model, ids = lira(), token_rows(5)[0][None]
    features = torch.ones(1, 4, 16), torch.ones(1, 2, 4, 24)
    cases = [
        ({}, "neither a text nor candidates; expected source_ids"),
        ({"source_ids": ids, "source_features": features[0]}, "source_ids and source_features; expected one"),
        ({"anchor_ids": ids, "anchor_features": features[1]}, "anchor_ids and anchor_features; expected one"),
        (
            {"source_features": features[0][:, 1:]},
            r"source_features has shape \(1, 3, 16\); expected \(batch, 4, 16\)",
        ),
        ({"anchor_features": features[1][0]}, r"anchor_features has shape \(2, 4, 24\); expected \(batch, cand"),
        ({"source_ids": ids.expand(2, -1), "anchor_features": features[1]}, "2 texts and 1 rows of candidates"),
        ({"anchor_features": features[1], "anchor_scores": torch.ones(1, 3)}, r"anchor_scores has.*\(1, 2, 3\)"),
        (
            {"source_ids": ids, "source_mask": ids[:, 1:]},
            r"mask has shape \(1, 4\); expected that of the ids, \(1, 5\)",
        ),
        ({"anchor_ids": ids[None], "anchor_mask": ids}, "anchor_mask has shape"),
    ]
    for inputs, message in cases:
        with pytest.raises(ValueError, match=message):
            model(**inputs)


def test_outputs_as_the_library_gives_them(lira, token_rows, pad, stack):
    model = lira(num_fusion_layers=2)
    model.set_attn_implementation({"": "eager"})
    ids, mask = pad(token_rows(6, 3))
    inputs = {"source_ids": ids, "source_mask": mask, **stack([token_rows(4), token_rows(2, seed=3)])}
    with torch.inference_mode():
        output = model(**inputs, output_attentions=True, output_hidden_states=True)
        values = model(**inputs, return_dict=False)
    assert [state.shape for state in output.hidden_states] == [(2, 6, 16)] * 3
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert [weights.shape for weights in output.attentions] == [(2, 2, 6, 6)] * 2
    close(output.attentions[0].sum(-1), torch.ones(2, 2, 6))
    # Row 1 has three tokens and one candidate of two: its bins 0-2 and 3-4 hold something.
    assert not output.attentions[0][1, :, :, 5].any()
    assert torch.equal(values[0], output.pooler_output)
    assert isinstance(values, tuple)
    sdpa = lira(num_fusion_layers=2)
    assert sdpa.config._attn_implementation == "sdpa"
    close(sdpa(**inputs).pooler_output, output.pooler_output)


def test_a_copy_is_independent_and_whole(lira, embed, token_rows):
    model, ids = lira("qwen3", None), token_rows(6)[0][None]
    twin = copy.deepcopy(model)
    assert torch.equal(embed(model, source_ids=ids), embed(twin, source_ids=ids))
    assert twin.config.encoder_config is twin.encoder.config is not model.encoder.config
    with torch.no_grad():
        twin.embedding_head.delta.bias.add_(1.0)
    assert not torch.equal(embed(model, source_ids=ids), embed(twin, source_ids=ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_finite_where_roads_are_absent(lira, embed, token_rows, pad, stack, dtype):
    none = torch.zeros(0, dtype=torch.long)
    ids, mask = pad([*token_rows(6, 4), none, none])
    rows = stack([token_rows(4, 7, seed=2), [], token_rows(3, 5, 1, seed=3), []])
    scores = torch.full((4, 3, 3), 10.0)
    inputs = {"source_ids": ids, "source_mask": mask, **rows, "anchor_scores": scores}
    model = lira("lira_ngram", "bert")
    expected = embed(model, **inputs)
    model = model.to(dtype)
    with torch.no_grad():
        output = model(**inputs, return_loss=True)
    assert output.pooler_output.dtype == dtype
    assert torch.isfinite(output.loss)
    cosine = torch.cosine_similarity(output.pooler_output.float(), expected)
    assert (cosine[:3] > 0.98).all()
    assert not output.pooler_output[3].any()
