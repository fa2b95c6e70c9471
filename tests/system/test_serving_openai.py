"""The official `openai` client is the contract: what it sends is understood, what it gets it can read."""

from __future__ import annotations

import concurrent.futures
import json
import math

import openai
import pytest
from serving_helpers import MAX_LEN, Server, wait_for

from oliveira.data.tokenizer import Tokenizer
from oliveira.monitoring.traffic import read_all

PROMPT = "No princípio era"


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return server.openai()


def test_chat_whole_equals_stream(client: openai.OpenAI) -> None:
    """Same seed, once in one piece and once streamed: the same text, reason and usage, once the prompt is cached."""
    ask = {
        "model": "oliveira",
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": 30,
        "seed": 5,
    }

    def cached() -> openai.types.chat.ChatCompletion | None:
        found = client.chat.completions.create(**ask)
        assert found.usage is not None and found.usage.prompt_tokens_details is not None
        # The cache is written behind the answer; the last token is always read.
        return found if found.usage.prompt_tokens_details.cached_tokens == found.usage.prompt_tokens - 1 > 0 else None

    whole = wait_for(cached, 10)
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    ends = [c.choices[0].finish_reason for c in chunks if c.choices and c.choices[0].finish_reason]
    assert ends == [whole.choices[0].finish_reason]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(c.usage is None for c in chunks[:-1])
    assert {c.id for c in chunks} == {chunks[0].id} and {c.system_fingerprint for c in chunks} == {
        whole.system_fingerprint
    }
    assert whole.usage.completion_tokens <= 30
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


def test_chat_joins_messages_by_newlines(client: openai.OpenAI) -> None:
    messages = [
        {"role": "system", "content": "Um"},
        {"role": "user", "content": [{"type": "text", "text": "do"}, {"type": "text", "text": "is"}]},
    ]
    chat = client.chat.completions.create(model="oliveira", messages=messages, max_tokens=12, temperature=0)
    plain = client.completions.create(model="oliveira", prompt="Um\ndois", max_tokens=12, temperature=0)
    assert chat.choices[0].message.content == plain.choices[0].text


def test_n_seed_and_greedy(client: openai.OpenAI) -> None:
    def ask(**options: object) -> list[str]:
        made = client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=20, **options)
        assert [choice.index for choice in made.choices] == list(range(len(made.choices)))
        return [choice.text for choice in made.choices]

    first = ask(n=2, seed=1)
    assert first == ask(n=2, seed=1) and first[0] != first[1] and first != ask(n=2, seed=2)
    assert ask() != ask()
    assert ask(temperature=0) == ask(temperature=0, seed=9) == ask(extra_body={"top_k": 1}) == ask(top_p=1e-9)


def test_streamed_choices_of_several_prompts(client: openai.OpenAI) -> None:
    ask = {"model": "oliveira", "prompt": ["Um", "Dois"], "n": 2, "max_tokens": 9, "seed": 3}
    whole = client.completions.create(**ask)
    texts = dict.fromkeys(range(4), "")
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {choice.index: choice.text for choice in whole.choices}


def test_stop(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=40, temperature=0).choices[0].text
    stop = whole[7:12]
    cut = client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=40, temperature=0, stop=[stop, "zz"])
    assert (cut.choices[0].text, cut.choices[0].finish_reason) == (whole[: whole.index(stop)], "stop")
    chunks = client.completions.create(
        model="oliveira", prompt=PROMPT, max_tokens=40, temperature=0, stop=stop, stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in chunks) == cut.choices[0].text


def test_logprobs(client: openai.OpenAI) -> None:
    ask = {"model": "oliveira", "max_tokens": 15, "temperature": 0}
    chat = client.chat.completions.create(
        **ask, messages=[{"role": "user", "content": PROMPT}], logprobs=True, top_logprobs=2
    )
    assert chat.choices[0].logprobs is not None
    entries = chat.choices[0].logprobs.content or []
    data = b"".join(bytes(entry.bytes or []) for entry in entries)
    assert data.decode("utf-8", "replace") == chat.choices[0].message.content
    for entry in entries:  # greedy: the token taken is the likeliest
        assert len(entry.top_logprobs) == 2 and entry.top_logprobs[0].bytes == entry.bytes
        assert entry.logprob == entry.top_logprobs[0].logprob <= 0
    plain = client.completions.create(**ask, prompt=PROMPT, logprobs=2).choices[0]
    assert plain.logprobs is not None
    assert plain.logprobs.token_logprobs == [entry.logprob for entry in entries]
    offsets, tokens = plain.logprobs.text_offset or [], plain.logprobs.tokens or []
    for at, token in zip(offsets, tokens, strict=True):
        assert plain.text[at:].startswith(token) or "�" in token
    streamed = client.completions.create(**ask, prompt=PROMPT, logprobs=2, stream=True)
    assert [
        p for c in streamed for x in c.choices if x.logprobs for p in x.logprobs.token_logprobs or []
    ] == plain.logprobs.token_logprobs


def test_a_prompt_is_said_as_lm_eval_reads_it(client: openai.OpenAI, server: Server) -> None:
    text = "No principio era"  # no token ends inside a character
    tokens = Tokenizer.load(server.home.tokenizer).encode(text)
    ask = {"model": "oliveira", "prompt": tokens, "echo": True, "logprobs": 1, "temperature": 0}
    found = client.completions.create(**ask, max_tokens=1).choices[0]
    assert found.logprobs is not None and found.text.startswith(text)
    values, tops = found.logprobs.token_logprobs, found.logprobs.top_logprobs
    assert len(values) == len(tops) == len(tokens) + 1 == len(found.logprobs.tokens)
    assert values[0] is None and tops[0] is None and all(value < 0 for value in values[1:])
    assert "".join(found.logprobs.tokens) == found.text
    assert [found.text[at] for at in found.logprobs.text_offset] == [token[0] for token in found.logprobs.tokens]
    scored = client.completions.create(**ask, max_tokens=0)
    assert scored.choices[0].text == text and scored.choices[0].logprobs.token_logprobs == values[:-1]
    assert scored.usage is not None and scored.usage.completion_tokens == 0
    streamed = list(client.completions.create(**ask, max_tokens=1, stream=True))
    assert "".join(chunk.choices[0].text for chunk in streamed) == found.text


def test_penalties_bias_and_short_embeddings(client: openai.OpenAI, server: Server) -> None:
    ask = {"model": "oliveira", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    [wanted] = Tokenizer.load(server.home.tokenizer).encode("x")[:1]
    biased = client.completions.create(**ask, logit_bias={str(wanted): 100}).choices[0].text
    assert biased == "x" * 12
    freed = client.completions.create(
        **ask, logit_bias={str(wanted): 100}, frequency_penalty=2, extra_body={"min_p": 0.1}
    )
    assert freed.choices[0].text.startswith("x")
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(**ask, best_of=3)
    with pytest.raises(openai.BadRequestError, match="99999999"):
        client.completions.create(**ask, logit_bias={"99999999": 1})
    whole = client.embeddings.create(model="oliveira", input="um").data[0].embedding
    short = client.embeddings.create(model="oliveira", input="um", dimensions=4).data[0].embedding
    length = math.hypot(*whole[:4])
    assert short == pytest.approx([number / length for number in whole[:4]], abs=1e-6)


def test_responses_whole_and_as_events(client: openai.OpenAI) -> None:
    chat = client.chat.completions.create(
        model="oliveira",
        messages=[{"role": "system", "content": "Um"}, {"role": "user", "content": PROMPT}],
        max_tokens=12,
        temperature=0,
    )
    ask = {"model": "oliveira", "instructions": "Um", "max_output_tokens": 12, "temperature": 0}
    whole = client.responses.create(**ask, input=PROMPT)
    assert whole.output_text == chat.choices[0].message.content and whole.usage is not None and chat.usage is not None
    assert whole.usage.output_tokens == chat.usage.completion_tokens
    cut = chat.choices[0].finish_reason == "length"
    assert whole.status == ("incomplete" if cut else "completed")
    parts = [{"role": "user", "content": [{"type": "input_text", "text": PROMPT}]}]
    events = list(client.responses.create(**ask, input=parts, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert [event.type for event in events[:4]] == [
        "response.created", "response.in_progress", "response.output_item.added", "response.content_part.added",
    ]  # fmt: skip
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert events[-1].type == ("response.incomplete" if cut else "response.completed")
    assert events[-1].response.output_text == whole.output_text and events[-1].response.usage.total_tokens > 0
    with pytest.raises(openai.BadRequestError, match="previous_response_id"):
        client.responses.create(**ask, input="a", previous_response_id="resp_1")


def test_embeddings(client: openai.OpenAI) -> None:
    """base64 (the client's default) and plain numbers are the same vectors, of length 1; order is kept."""
    texts = ["A noite caiu.", "O menino riu.", "A noite caiu."]
    made = client.embeddings.create(model="oliveira", input=texts)
    plain = client.embeddings.create(model="oliveira", input=texts, encoding_format="float")
    vectors = [item.embedding for item in made.data]
    assert vectors[0] == vectors[2] != vectors[1]
    for a, b in zip(vectors, [item.embedding for item in plain.data], strict=True):
        assert a == pytest.approx(b, abs=1e-6) and math.hypot(*a) == pytest.approx(1, abs=1e-5)
    assert made.usage.prompt_tokens == made.usage.total_tokens > 0


def test_models(client: openai.OpenAI, server: Server) -> None:
    digest = server.state()["digest"]
    assert [model.id for model in client.models.list()] == ["oliveira", digest[:12]]
    assert client.models.retrieve(digest[:12]).model_dump()["root"] == digest
    raw = client.completions.with_raw_response.create(model=digest[:12], prompt="a", max_tokens=1)
    assert raw.headers["x-oliveira-model"] == digest[:12] == raw.parse().system_fingerprint


def test_errors_raise_the_right_classes(client: openai.OpenAI, server: Server) -> None:
    def ask(key: str = "", **options: object) -> None:
        fields = {"model": "oliveira", "prompt": "a", "max_tokens": 1, **options}
        (server.openai(key) if key else client).completions.create(**fields)

    with pytest.raises(openai.AuthenticationError):
        ask("sk-oli-00000000-wrong")
    with pytest.raises(openai.AuthenticationError):
        ask(server.home.revoked)
    with pytest.raises(openai.NotFoundError) as missing:
        ask(model="gpt-4o")
    assert missing.value.code == "model_not_found" and "oliveira" in missing.value.message
    with pytest.raises(openai.BadRequestError) as long:
        ask(prompt="a b c d e f g " * 200)
    assert long.value.code == "context_length_exceeded" and str(MAX_LEN) in long.value.message
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        ask(max_tokens=MAX_LEN)
    with pytest.raises(openai.BadRequestError) as hot:
        ask(temperature=3)
    assert hot.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="functions"):
        client.chat.completions.create(
            model="oliveira", messages=[{"role": "user", "content": "a"}], functions=[{"name": "f", "parameters": {}}]
        )
    with pytest.raises(openai.PermissionDeniedError):
        client.post("../admin/rollback", cast_to=object)
    # What asks for nothing is no reason to refuse; the answer fills the context when no limit is given.
    made = client.chat.completions.create(
        model="oliveira",
        messages=[{"role": "user", "content": "a"}],
        tools=[],
        user="someone",
        frequency_penalty=0,
        response_format={"type": "text"},
        seed=0,
        stop="\0\0",
    )
    assert made.usage is not None
    assert made.choices[0].finish_reason == "stop" or made.usage.total_tokens == MAX_LEN


def test_an_error_before_the_first_token_has_its_status_in_a_stream_too(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(model="oliveira", prompt="a", max_tokens=9999, stream=True)


def test_tokenize_round_trip(server: Server) -> None:
    text = "ação, coração e <|endoftext|> 😀"
    with server.http() as http:
        found = http.post("/tokenize", json={"text": text}).json()
        assert found["tokens"] == Tokenizer.load(server.home.tokenizer).encode(text)
        assert found["count"] == len(found["tokens"]) and found["max_len"] == MAX_LEN
        assert http.post("/detokenize", json={"tokens": found["tokens"]}).json() == {"text": text}
        assert http.post("/detokenize", json={"tokens": [10**6]}).status_code == 400


def test_prompts_as_tokens(client: openai.OpenAI, server: Server) -> None:
    tokens = Tokenizer.load(server.home.tokenizer).encode(PROMPT)
    ask = {"model": "oliveira", "max_tokens": 10, "temperature": 0}
    text = client.completions.create(**ask, prompt=PROMPT).choices[0].text
    assert client.completions.create(**ask, prompt=tokens).choices[0].text == text
    assert [c.text for c in client.completions.create(**ask, prompt=[tokens, tokens]).choices] == [text, text]


def test_concurrent_clients_get_their_own_answers(client: openai.OpenAI) -> None:
    """More clients than slots: each gets what it would get alone."""

    def ask(seed: int) -> str:
        return client.completions.create(model="oliveira", prompt=PROMPT, max_tokens=25, seed=seed).choices[0].text

    alone = [ask(seed) for seed in range(12)]
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        assert list(pool.map(ask, range(12))) == alone
    assert len(set(alone)) == 12


def test_raw_stream_is_what_the_specification_says(server: Server) -> None:
    with server.http() as http:
        body = {
            "model": "oliveira",
            "messages": [{"role": "user", "content": "a"}],
            "max_tokens": 3,
            "stream": True,
        }
        with http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            assert response.headers["cache-control"] == "no-cache" and response.headers["x-accel-buffering"] == "no"
            frames = "".join(response.iter_text()).split("\n\n")
    assert frames[-1] == "" and frames[-2] == "data: [DONE]"
    assert all(
        frame.startswith("data: ") and json.loads(frame[6:])["object"] == "chat.completion.chunk"
        for frame in frames[:-2]
    )


def test_metrics_and_traffic_follow_the_requests(client: openai.OpenAI, server: Server) -> None:
    def count(text: str, name: str) -> float:
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"oliveira:{name}"))

    with server.http() as http:
        before = http.get("/metrics").text
        done = client.completions.create(model="oliveira", prompt="Um rastro único", max_tokens=4, seed=1)
        client.completions.create(
            model="oliveira", prompt="Sem rastro", max_tokens=4, extra_headers={"X-Oliveira-No-Traffic": "1"}
        )
        after = http.get("/metrics").text
    assert done.usage is not None
    for name, least in (
        ("prompt_tokens_total", done.usage.prompt_tokens),
        ("generation_tokens_total", 5),
        ("request_success_total", 2),
        ("time_to_first_token_seconds_count", 2),
        ("e2e_request_latency_seconds_count", 2),
        ("request_queue_time_seconds_count", 2),
        ("request_prefill_time_seconds_count", 2),
        ("inter_token_latency_seconds_count", 2),
    ):
        assert count(after, name) - count(before, name) >= least, name
    assert count(after, "model_info") == 1 and server.state()["digest"][:12] in after
    records = wait_for(lambda: [r for r in read_all(server.home.path / "traffic") if r["text"] == "Um rastro único"])
    [record] = records
    assert record["digest"] == server.state()["digest"] and record["loss"] > 0
    assert record["key"] == server.home.use.split("-")[2], "whose it is: `oliveira forget` asks"
    assert record["tokens"] == Tokenizer.load(server.home.tokenizer).encode("Um rastro único")
    assert not any("Sem rastro" in r["text"] for r in read_all(server.home.path / "traffic"))
