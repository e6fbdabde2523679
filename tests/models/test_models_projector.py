"""The slots of the soft prefix: which are blank, what each road says in them, and their loss against a reference."""

import math

import pytest
import tiny_lira
import torch


ROADS = ("source_ids", "source_mask", "anchor_ids", "anchor_mask")


def fused_of(model, **kwargs):
    texts = {name: value for name, value in tiny_lira.texts(3).items() if name in ROADS}
    return model.fuse_roads(**texts, **kwargs)[0]


def prefix_of(model, fused):
    return model.lira.soft_prefix(fused.last_hidden_state, fused.fusion_mask)


def shares_of(model, fused):
    """The multilingual road's share of each slot of a merged prefix."""
    projector = model.lira.prefix_projector
    if projector.kind == "linear":
        facts = projector.norm(fused.last_hidden_state).unflatten(1, (2, 3)).mean(2).flatten(1)
        return projector.gate_fc2(projector.activation(projector.gate_fc1(facts))).sigmoid().expand(-1, 3)
    chances = projector.slot_logits(fused.last_hidden_state, model.get_input_embeddings()).softmax(-1)
    entropy = -(chances * chances.log()).sum(-1).unflatten(1, (2, 3))
    config = model.config
    source, anchor = config.gate_weights
    odds = config.gate_bias - source * entropy[:, 0] + anchor * entropy[:, 1]
    return odds.sigmoid().detach()


def labels_of(*rows, slots=3, width=2):
    labels = torch.full((len(rows), slots, width), -100)
    for number, row in enumerate(rows):
        for slot, tokens in enumerate(row):
            labels[number, slot, : len(tokens)] = torch.tensor(tokens)
    return labels


CALIBRATED = {"gate_weights": [3.0, 1.0], "gate_bias": 0.5}


@pytest.mark.parametrize(("kind", "gate"), [("linear", {}), ("vocab", {}), ("vocab", CALIBRATED)])
def test_merged_slots_are_the_gates_mixture_of_both_roads(kind, gate):
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection=kind, **gate)
    fused = fused_of(model)
    prefix = prefix_of(model, fused)
    model.lira.prefix_projector.merged = False  # the same weights, road by road
    apart = prefix_of(model, fused).embeds.unflatten(1, (2, 3))
    share = shares_of(model, fused)
    torch.testing.assert_close(prefix.gate, (share * prefix.mask).sum(-1) / prefix.mask.sum(-1))
    gate = share.unsqueeze(-1)
    assert prefix.embeds.shape[1] == model.config.prefix_length == 3
    assert float(gate.detach().std()) > 0  # another one for each text, or slot
    expected = (gate * apart[:, 0] + (1 - gate) * apart[:, 1]) * prefix.mask.unsqueeze(-1)
    torch.testing.assert_close(prefix.embeds, expected)


def test_without_a_gate_both_roads_count_alike():
    model = tiny_lira.causal(prefix_roads="merged", prefix_gate=False)
    assert prefix_of(model, fused_of(model)).gate.tolist() == [0.5] * 3
    assert not any("gate" in name for name, _ in model.lira.prefix_projector.named_parameters())


def test_an_untrained_gate_counts_both_roads_alike():
    torch.manual_seed(0)
    parts = (tiny_lira.build("llama"), tiny_lira.encoder("bert"))
    model = tiny_lira.LiraForCausalLM.from_backbones(*parts, **tiny_lira.SIZES, prefix_roads="merged")
    assert prefix_of(model, fused_of(model)).gate.tolist() == [0.5] * 3


def test_the_road_that_is_surer_of_a_slot_fills_it():
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    scores = torch.zeros(1, 2, 2, 99)
    scores[0, 0, 0, 7] = scores[0, 1, 1, 9] = 30.0  # each road knows one slot and has no idea of the other
    blank, there = torch.full((1, 2, 2), -9.0), torch.ones(1, 2, dtype=torch.bool)
    shares = model.lira.prefix_projector._shares(torch.zeros(1, 2, 2, 16), scores.log_softmax(-1), blank, there).exp()
    torch.testing.assert_close(shares[0, 0], torch.tensor([1.0, 0.0]), atol=1e-4, rtol=0)
    torch.testing.assert_close(shares.sum(1), torch.ones(1, 2))


@pytest.mark.parametrize(("gone", "share"), [("keep_anchor", 1.0), ("keep_source", 0.0)])
def test_a_road_that_is_there_alone_says_everything(gone, share):
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    kept = torch.tensor([False, True, False])
    fused = fused_of(model, **{gone: kept})
    prefix = prefix_of(model, fused)
    assert prefix.gate[~kept].tolist() == [share, share]
    assert 0 < prefix.gate[1] < 1
    model.lira.prefix_projector.merged = False
    alone = prefix_of(model, fused).embeds.unflatten(1, (2, 3))[:, 0 if share else 1]
    torch.testing.assert_close(prefix.embeds[~kept], alone[~kept])


@pytest.mark.parametrize("roads", ["both", "merged"])
def test_slots_are_blank_where_a_bin_is_empty_until_training_says_otherwise(roads):
    model = tiny_lira.causal(prefix_roads=roads)
    projector = model.lira.prefix_projector
    with torch.no_grad():
        projector.blank.weight.zero_()
        projector.blank.bias.zero_()
        ids, mask = torch.randint(5, 100, (2, 3)), torch.tensor([[1, 0, 0], [1, 1, 1]])
        fused, _ = model.fuse_roads(source_ids=ids, source_mask=mask)
    filled = [[1, 0, 0], [1, 1, 1]]
    expected = filled if roads == "merged" else [row + [0, 0, 0] for row in filled]
    assert prefix_of(model, fused).mask.tolist() == expected
    with torch.no_grad():
        projector.blank.bias.fill_(-20.0)  # nothing is blank, however short the text
    longest = [[1, 1, 1]] * 2 if roads == "merged" else [[1, 1, 1, 0, 0, 0]] * 2  # but an absent road stays absent
    assert prefix_of(model, fused).mask.tolist() == longest
    with torch.no_grad():
        projector.blank.bias.fill_(20.0)
    prefix = prefix_of(model, fused)
    assert not prefix.mask.any()
    assert not prefix.embeds.any()


def test_blank_slots_change_nothing_in_the_bases_answer():
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    with torch.no_grad():
        model.lira.prefix_projector.blank.bias.fill_(-20.0)
        model.lira.prefix_projector.blank.weight.zero_()
    texts = {name: value for name, value in tiny_lira.texts(2).items() if name in ROADS}
    batch = tiny_lira.prompts(model, 3, 5) | texts
    whole = model(**batch)
    blanked = whole.prefix_mask.clone()
    blanked[:, 1] = 0
    noise = whole.prefix_embeds.clone()
    noise[:, 1] = 7.0
    asked = {name: batch[name] for name in ("input_ids", "attention_mask")}
    first, second = (
        model(**asked, prefix_embeds=embeds, prefix_mask=blanked).logits[:, -1]
        for embeds in (whole.prefix_embeds, noise)
    )
    torch.testing.assert_close(first, second)
    assert not torch.allclose(first, whole.logits[:, -1])


def test_the_vocabulary_loss_is_the_cross_entropy_of_either_road_and_of_their_mixture():
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    fused, labels = fused_of(model), labels_of([[4], [7, 9]], [[3], [2], [8]], [])
    projector, embedding = model.lira.prefix_projector, model.get_input_embeddings()
    found = model.reference_loss(labels, fused)
    chances = projector.slot_logits(fused.last_hidden_state, embedding).softmax(-1).unflatten(1, (2, 3))
    gate = shares_of(model, fused)
    normed = projector.norm(fused.last_hidden_state).unflatten(1, (2, 3))
    filled = fused.fusion_mask.bool().unflatten(1, (2, 3))
    blank = projector.blank(normed).squeeze(-1) + torch.where(filled, -1, 1) * projector.blank_logit
    blank = blank.sigmoid()
    tokens, blanks = {"roads": [], "both": []}, {"roads": [], "both": []}
    for row in (0, 1):  # the third has no reference
        for slot in range(3):
            share = (gate[row, slot], 1 - gate[row, slot])
            wanted = [token for token in labels[row, slot].tolist() if token >= 0]
            said = [blank[row, road, slot] if not wanted else 1 - blank[row, road, slot] for road in (0, 1)]
            blanks["roads"] += [-one.log() for one in said]
            blanks["both"].append(-(share[0] * said[0] + share[1] * said[1]).log())
            if wanted:
                each = [[chances[row, road, slot, token] for token in wanted] for road in (0, 1)]
                tokens["roads"] += [-sum(one.log() for one in road) / len(wanted) for road in each]
                mixed = [share[0] * one + share[1] * other for one, other in zip(*each, strict=True)]
                tokens["both"].append(-sum(one.log() for one in mixed) / len(wanted))
    means = {name: torch.stack(tokens[name]).mean() + torch.stack(blanks[name]).mean() for name in tokens}
    torch.testing.assert_close(found, means["both"] + 0.5 * means["roads"])


def test_the_linear_loss_is_the_angle_to_the_references_mean_embedding():
    model = tiny_lira.causal()
    fused, labels = fused_of(model), labels_of([[4], [7, 9]], [], [])
    projector = model.lira.prefix_projector
    with torch.no_grad():
        projector.blank.weight.zero_()
        projector.blank.bias.fill_(-99.0)  # no slot is blank
        soft = prefix_of(model, fused).embeds.unflatten(1, (2, 3))
        projector.blank.bias.zero_()
        projector.blank_logit.fill_(0.0)  # every slot blank or not by one half
    table = model.get_input_embeddings().weight
    wanted = torch.stack([table[4], (table[7] + table[9]) / 2])
    angles = 1 - torch.cosine_similarity(soft[0, :, :2], wanted, dim=-1)
    torch.testing.assert_close(model.reference_loss(labels, fused), angles.mean() + math.log(2.0))


@pytest.mark.parametrize("kind", ["linear", "vocab"])
@pytest.mark.parametrize("roads", ["both", "merged"])
def test_the_reference_is_learned(kind, roads):
    model = tiny_lira.causal(prefix_roads=roads, prefix_projection=kind)
    model.freeze(arca=False)
    labels = labels_of([[4], [7]], [[3], [2], [8]], [[5]], width=1)
    texts = {name: value for name, value in tiny_lira.texts(3).items() if name in ROADS}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    losses = []
    for _ in range(150):
        loss = model(reference_slots=labels, **texts).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.15 * losses[0]
    prefix = prefix_of(model, fused_of(model))
    expected = [[1, 1, 0], [1, 1, 1], [1, 0, 0]]
    assert prefix.mask[:, :3].tolist() == expected  # as many as the reference has tokens
    table = model.get_input_embeddings().weight
    nearest = torch.cosine_similarity(prefix.embeds[:, :3].unsqueeze(2), table, dim=-1).argmax(-1)
    assert [
        [int(t) for t, m in zip(*row, strict=True) if m] for row in zip(nearest, prefix.mask[:, :3], strict=True)
    ] == [
        [4, 7],
        [3, 2, 8],
        [5],
    ]


def test_a_batch_without_any_reference_teaches_nothing_and_stops_nothing():
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    loss = model.reference_loss(labels_of([], [], []), fused_of(model))
    loss.backward()
    assert loss.item() == 0
    with pytest.raises(ValueError, match=r"reference_slots has shape \(3, 4, 2\); expected \(batch, 3, tokens"):
        model.reference_loss(labels_of([], [], [], slots=4), fused_of(model))


@pytest.mark.parametrize("roads", ["both", "merged"])
def test_a_kept_slot_is_exactly_what_was_read_in_every_precision(roads):
    model = tiny_lira.causal(prefix_roads=roads, prefix_gate=False).to(torch.bfloat16)
    fused, projector = fused_of(model), model.lira.prefix_projector
    prefix = prefix_of(model, fused)
    embedding = model.get_input_embeddings()
    soft = projector._soft(projector._read(fused.last_hidden_state, fused.fusion_mask, embedding), embedding)
    soft = soft.flatten(1, 2) if roads == "both" else (torch.tensor(0.5).log().bfloat16().exp() * soft).sum(1)
    kept = prefix.mask.bool()
    assert torch.equal(prefix.embeds[kept], soft[kept])


def test_roads_alone_are_given_beside_the_prefix():
    model = tiny_lira.causal(prefix_roads="merged")
    batch = tiny_lira.prompts(model, 3, 5, 4) | {k: v for k, v in tiny_lira.texts(3).items() if k in ROADS}
    output = model(**batch, output_paths=True)
    none = torch.zeros(3, dtype=torch.bool)
    for name, gone in (("source_path_embeds", "keep_anchor"), ("anchor_path_embeds", "keep_source")):
        torch.testing.assert_close(getattr(output, name), model(**batch, **{gone: none}).prefix_embeds)
    assert model(**batch).source_path_embeds is None


def test_evidence_is_of_the_slots_that_a_reference_fills_in_texts_with_both_roads():
    model = tiny_lira.causal(prefix_roads="merged", prefix_projection="vocab")
    fused = fused_of(model, keep_anchor=torch.tensor([True, False, True]))
    projector, embedding = model.lira.prefix_projector, model.get_input_embeddings()
    chances = projector.slot_logits(fused.last_hidden_state, embedding).softmax(-1).unflatten(1, (2, 3))
    likeliest = chances.argmax(-1)
    other = (int(likeliest[0, 0, 0]) + 1) % chances.shape[-1]
    # Of the first text g's first slot is right beside another token, h's second; the second text has no h.
    labels = labels_of([[other, int(likeliest[0, 0, 0])], [int(likeliest[0, 1, 1])]], [[3], [2], [8]], [])
    entropies, right = projector.slot_evidence(fused.last_hidden_state, fused.fusion_mask, embedding, labels)
    expected = -(chances * chances.log()).sum(-1)[0, :, :2].T
    torch.testing.assert_close(entropies, expected)
    assert right.shape == (2, 2)
    assert right[0, 0]
    assert right[1, 1]


def test_gate_weights_are_two():
    with pytest.raises(ValueError, match="gate_weights has 3 numbers; expected 2"):
        tiny_lira.causal(gate_weights=[1.0, 2.0, 3.0])
