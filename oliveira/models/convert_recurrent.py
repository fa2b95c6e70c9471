"""Trained weights of another project's recurrent model under the names of this house.

Covered: the grapheme-to-phoneme model of the package g2p-en (Apache-2.0), by way of `Seq2Seq.from_g2p_en`: a GRU reads
letters, a second one, started from its last state, writes ARPAbet phonemes. No attention.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from oliveira.errors import UserError

# Names of theirs, and of ours.
G2P_EN = {
    "enc_emb": "source.weight",
    "dec_emb": "target.weight",
    "fc_w": "output.weight",
    "fc_b": "output.bias",
    **{
        f"{theirs}_{short}": f"{ours}.{name}"
        for theirs, ours in (("enc", "encoder.ahead.0"), ("dec", "first"))
        for short, name in (("w_ih", "weight_ih"), ("w_hh", "weight_hh"), ("b_ih", "bias_ih"), ("b_hh", "bias_hh"))
    },
}


class Converted(NamedTuple):
    config: dict[str, Any]  # keyword arguments of Seq2SeqConfig
    state: dict[str, Tensor]  # state_dict of Seq2Seq


def from_g2p_en(path: Path) -> Converted:
    """Reads `checkpoint20.npz`. Raises `UserError` when it is not that file."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            theirs = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path.name} cannot be read as g2p-en's checkpoint ({error}). Give checkpoint20.npz."
        ) from None
    if theirs.keys() != G2P_EN.keys():
        odd = sorted(theirs.keys() ^ G2P_EN.keys())
        raise UserError(f"{path.name} is not g2p-en's checkpoint: {', '.join(odd[:3])}. Give checkpoint20.npz.")
    config = {
        "vocab_size": theirs["enc_emb"].shape[0],
        "target_vocab_size": theirs["dec_emb"].shape[0],
        "d_model": theirs["enc_emb"].shape[1],
        "attention": "none",
        "bidirectional": False,
    }
    return Converted(config, {ours: theirs[name] for name, ours in G2P_EN.items()})
