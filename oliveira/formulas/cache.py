"""The attention cache of seed document 000: a ring buffer, and what `mod C` means."""

from __future__ import annotations

from oliveira.formulas.registry import Check, Seed, formula


@formula(
    "cache",
    "Persistent attention cache",
    Seed(
        "000",
        "1. Cache de Atenção Persistente",
        r"K_{\text{cache}} = [K_{\text{old}} \| K_{\text{new}}] \mod C \\"
        "\n"
        r"V_{\text{cache}} = [V_{\text{old}} \| V_{\text{new}}] \mod C",
    ),
    verdict="wrong",
    published=r"\text{slot}(t) = t \bmod C;\quad K[\text{slot}(t)] = k_t,\ V[\text{slot}(t)] = v_t",
    source="Jiang et al. 2023 (Mistral, rolling buffer), arXiv:2310.06825, §2; sinks: Xiao et al. 2023, "
    "arXiv:2309.17453, §3",
    remarks="mod on a tensor of reals changes the numbers; meant is the slot: a ring buffer. It equals "
    "full attention while t ≤ C and a sliding window afterwards. The first ~4 tokens are kept as sinks, or "
    "quality falls when they leave the window; with RoPE the position is absolute, not the slot.",
    variants={"ring+sinks": "the first 4 tokens stay, the rest is a ring", "ring": "slot = t mod C"},
    default="ring+sinks",
    units="t and C in tokens; K, V (C, d) a head",
    where="later: A19",
)
def check_cache(check: Check) -> None:
    import torch

    from oliveira.nn.attention import attention_reference

    length, capacity, sinks = 24, 16, 4
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(length, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    ring_k, ring_v = (
        torch.zeros(capacity, 8, dtype=torch.float64),
        torch.zeros(capacity, 8, dtype=torch.float64),
    )
    from_full, from_window = [], []  # largest difference at each token
    for t in range(length):
        ring_k[t % capacity], ring_v[t % capacity] = k[t], v[t]
        held, first = min(t + 1, capacity), max(0, t + 1 - capacity)
        ring = attention_reference(q[t : t + 1], ring_k[:held], ring_v[:held])
        full = attention_reference(q[t : t + 1], k[: t + 1], v[: t + 1])
        window = attention_reference(q[t : t + 1], k[first : t + 1], v[first : t + 1])
        from_full.append(float((ring - full).abs().max()))
        from_window.append(float((ring - window).abs().max()))
    early, late = max(from_full[:capacity]), max(from_full[capacity:])
    check.figure("ring against full attention, 24 tokens, C = 16: while t ≤ C, afterwards", [early, late])
    check.claim("the ring is full attention while t ≤ C", early < 1e-12)
    check.claim("afterwards it is the window of the last C tokens", max(from_window) < 1e-12 and late > 1e-3)
    literal = attention_reference(q[:8], k[:8] % capacity, v[:8] % capacity) - attention_reference(q[:8], k[:8], v[:8])
    check.figure("taken literally, K mod 16 and V mod 16 move the output by", float(literal.abs().max()))
    check.claim(
        "taken literally, mod changes the values: −0.3 becomes 15.7",
        float(literal.abs().max()) > 1 and abs(-0.3 % capacity - 15.7) < 1e-12,
    )
    slots = [t if t < sinks else sinks + (t - sinks) % (capacity - sinks) for t in range(length)]
    kept = sorted({slot: t for t, slot in enumerate(slots)}.values())
    check.figure("ring+sinks at t = 24, C = 16: tokens held", kept)
    check.claim("ring+sinks holds the first 4 and the last 12 tokens", kept == [0, 1, 2, 3, *range(12, 24)])
