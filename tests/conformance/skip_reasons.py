"""Whose a skip is: the machine's, a matter of the kind of model, or ours."""

import re


__all__ = ["KINDS", "whose"]

KINDS = {
    "machine": "this machine lacks something (an accelerator, an optional library)",
    "kind": "the test is about what this kind of model does not have",
    "ours": "something of LiRA's own, to be mended",
}

_MACHINE = (
    r"^test requires (an? )?(multiple )?(accelerator|Flash Attention|deepspeed|MPS|the kernels library|CUDA|GPU)",
    r"(?i)^test requires (av|librosa|torchcodec|timm|pytesseract)\b",  # for images, videos and audio
)
_KIND = (
    # Images, videos and sound.
    r"(image_processor|video_processor|feature_extractor|audio_processor) attribute not present",
    r"does(n't| not) support (images|videos|audio|video inputs|audio inputs)",
    r"has no (audio|video) processor|doesn't accept videos|mm_token_type_ids|_get_num_multimodal_tokens",
    # Other architectures.
    r"No sequence-to-sequence language modeling head|has no sparse experts|output_router_logits|grouped_mm",
    r"does not support RoPE scaling|does not have RoPE|partial rope|no axial RoPE|sliding window",
    r"does not have position embeddings|doesn't use `inputs_embeds`",
    r"No decoder-only language modeling head to check",
    r"no `base_model_class` defined in tester",  # tests of RoPE, which run over the class without a head
    # What a model or a checkpoint may declare, and LiRA's does not.
    r"No conversion found|no _keep_in_fp32_modules|does not have a TP plan",
    r"Processor has no chat template|Chat template does not support tools",
    # Other pipelines.
    r"is not in `self.pipeline_model_mapping`|`run_pipeline_test` is currently not impl",
    # Written out at the test, in this folder.
    r"^LiRA: ",
)


def whose(reason: str) -> str:
    """One of [`KINDS`] for the reason of a skip; what is not known is held to be ours."""
    if any(re.search(pattern, reason) for pattern in _MACHINE):
        return "machine"
    return "kind" if any(re.search(pattern, reason) for pattern in _KIND) else "ours"
