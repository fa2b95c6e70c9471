"""The recurrent half of the catalogue beside torch.nn: the same weights and inputs.

The one-tower models are compared with embedding → torch layer → linear; where rows are of different length, torch's
side packs them. seq2seq is compared with a decoder of torch.nn.GRUCell and the equations of its paper.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.case import Case
from oliveira.convert import from_reference

B, T, D, VOCAB = 32, 128, 128, 1024
SOURCE, TARGET = 20, 20


def _both(name: str, reference: str, ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> Iterator[Case]:
    """Two cases: forward, and forward with its backward."""

    def still(run: Callable[[], Tensor]) -> Callable[[], object]:
        def forward() -> None:
            with torch.inference_mode():
                run()

        return forward

    def learning(run: Callable[[], Tensor]) -> Callable[[], object]:
        return lambda: run().square().mean().backward()

    model = name.split()[0]
    for kind, wrapped in (("forward", still), ("forward+backward", learning)):
        yield Case(
            name=f"{name} {kind}", model=model, ours=wrapped(ours), reference=wrapped(theirs), reference_name=reference
        )


def _one_tower() -> Iterator[Case]:
    from oliveira.models.bigru import BiGRU
    from oliveira.models.bilstm import BiLSTM
    from oliveira.models.gru import GRU
    from oliveira.models.lstm import LSTM
    from oliveira.models.rnn import RNN

    tokens = torch.randint(VOCAB, (B, T))
    lengths = torch.randint(T // 4, T + 1, (B,)).index_fill(0, torch.tensor([0]), T)
    mask = torch.arange(T) < lengths[:, None]
    for model in (RNN, LSTM, GRU, BiLSTM, BiGRU):
        kind = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}[model.kind]
        layer = kind(D, D, 1, batch_first=True, bidirectional=model.bidirectional)
        embedding, head = nn.Embedding(VOCAB, D), nn.Linear(2 * D if model.bidirectional else D, 8)
        ours = from_reference(model, layer, input=embedding, output=head)
        name = f"{model.__name__.lower()} B {B} T {T} d_model {D}"
        reference = f"torch.nn.{kind.__name__}"

        def plain(layer: nn.Module = layer, embedding: nn.Module = embedding, head: nn.Module = head) -> Tensor:
            return head(layer(embedding(tokens))[0])

        def packed(layer: nn.Module = layer, embedding: nn.Module = embedding, head: nn.Module = head) -> Tensor:
            rows = nn.utils.rnn.pack_padded_sequence(embedding(tokens), lengths, batch_first=True, enforce_sorted=False)
            return head(nn.utils.rnn.pad_packed_sequence(layer(rows)[0], batch_first=True)[0])

        yield from _both(name, reference, lambda ours=ours: ours(tokens), plain)  # type: ignore[misc]
        if model.bidirectional:
            padded = f"{name} padded"
            yield from _both(padded, f"{reference}, packed", lambda ours=ours: ours(tokens, mask), packed)  # type: ignore[misc]


def _seq2seq() -> Iterator[Case]:
    from oliveira.models.seq2seq import Seq2Seq, Seq2SeqConfig
    from oliveira.nn.bahdanau import AttentiveGRU

    model = Seq2Seq(Seq2SeqConfig(vocab_size=VOCAB, target_vocab_size=VOCAB, d_model=D)).eval()
    first, bridge, readout = model.first, model.bridge, model.readout
    assert isinstance(first, AttentiveGRU) and bridge is not None and readout is not None
    attention, cell = first.attention, first.cell
    encoder = nn.GRU(D, D, batch_first=True, bidirectional=True)
    for way, suffix in ((model.encoder.ahead[0], "_l0"), (model.encoder.back[0], "_l0_reverse")):
        encoder.load_state_dict({f"{name}{suffix}": w for name, w in way.state_dict().items()}, strict=False)
    source, target = torch.randint(VOCAB, (2 * B, SOURCE)), torch.randint(VOCAB, (2 * B, TARGET))

    def by_hand() -> Tensor:
        memory = encoder(model.source(source))[0]
        keys = attention.key(memory)
        state = torch.tanh(bridge(torch.cat([memory[:, -1, :D], memory[:, 0, D:]], dim=-1)))
        steps = []
        for embedded in model.target(target).unbind(1):
            scores = attention.score(torch.tanh(attention.query(state)[:, None] + keys))
            context = (scores.softmax(dim=1).transpose(1, 2) @ memory)[:, 0]
            state = cell(torch.cat([embedded, context], dim=-1), state)
            steps.append(torch.cat([state, embedded, context], dim=-1))
        return model.output(readout(torch.stack(steps, dim=1)))

    name = f"seq2seq B {2 * B} S {SOURCE} T {TARGET} d_model {D}"
    yield from _both(name, "torch.nn.GRUCell by hand", lambda: model(source, target), by_hand)


def cases() -> Iterator[Case]:
    torch.manual_seed(0)
    yield from _one_tower()
    yield from _seq2seq()
