"""The peer of benchmarks.qlora: peft's LoRA on bitsandbytes' 4-bit layers in transformers' Llama."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from benchmarks.qlora_case import ALPHA, CONFIG, RANK, TARGETS, Side, Subject
from oliveira.adaptation.lora import add_lora, layers
from oliveira.convert import from_reference
from oliveira.convert.base import read
from oliveira.convert.gpt import READERS
from oliveira.models.gpt import GPT

NAMES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
COMPUTE = {"fp32": torch.float32, "bf16": torch.bfloat16}


def theirs(subject: Subject, method: str, compute: str) -> Side:
    """peft's LoRA on bitsandbytes' Linear4bit (or on nn.Linear) in a LlamaForCausalLM."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from peft import LoraConfig, get_peft_model

    source = subject.model()
    model = llama(source)
    torch.manual_seed(1)
    factors = [layer.lora_a for layer in layers(add_lora(source, RANK, ALPHA, TARGETS)).values()]
    del source  # it would count as the peer's memory
    if method == "nf4":
        _four_bits(model, COMPUTE[compute])
        model.is_loaded_in_4bit = True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            model, LoraConfig(r=RANK, lora_alpha=int(ALPHA), target_modules=list(NAMES), task_type="CAUSAL_LM")
        ).train()
    theirs_a = [p for name, p in model.named_parameters() if "lora_A" in name]
    with torch.no_grad():
        for p, factor in zip(theirs_a, factors, strict=True):
            p.copy_(factor)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=CONFIG.lr, betas=(0.9, 0.999), weight_decay=0.0, fused=True)
    losses: list[float] = []

    def step() -> None:
        rows = subject.batch(len(losses))
        targets = rows[:, 1:].contiguous()
        loss = model(input_ids=rows[:, :-1], labels=targets, shift_labels=targets).loss
        loss.backward()
        nn.utils.clip_grad_norm_(trained, CONFIG.clip)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())

    return Side(step, losses)


def llama(source: GPT) -> Any:
    """transformers' model of the same shape and weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from transformers import LlamaConfig, LlamaForCausalLM

    c = source.config
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.d_model, num_hidden_layers=c.n_layers, num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads, intermediate_size=c.d_ff, max_position_embeddings=c.max_len,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=c.tied, bos_token_id=None, eos_token_id=None,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    state = source.state_dict()
    for name, tensor in read(model, "GPT", READERS).state.items():  # their tensors themselves, under our names
        tensor.copy_(state[name])
    assert from_reference(GPT, model).config == c, "the two must be the same network"
    return model


def _four_bits(module: nn.Module, compute: torch.dtype) -> None:
    import bitsandbytes as bnb

    for name, child in list(module.named_children()):
        if isinstance(child, nn.Linear) and name != "lm_head":
            made = bnb.nn.Linear4bit(
                child.in_features, child.out_features, bias=False, compute_dtype=compute, quant_type="nf4"
            )
            made.weight = bnb.nn.Params4bit(
                child.weight.data, requires_grad=False, quant_type="nf4", compress_statistics=True
            )
            setattr(module, name, made.to("cpu"))
        else:
            _four_bits(child, compute)
