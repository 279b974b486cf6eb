"""The `anthropic` package against a server of the built-in model: anthropic_client.py URL"""

import sys

import anthropic

client = anthropic.Anthropic(base_url=sys.argv[1], api_key="none", max_retries=0)
SUM = [{"role": "user", "content": "What is 7 + 5?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 3]}},
        "required": ["city", "days"],
    },
}
model = client.models.list().data[0].id

message = client.messages.create(model=model, max_tokens=300, messages=SUM)
kinds = [block.type for block in message.content]
assert kinds == ["thinking", "text"], message
assert "12" in message.content[1].text and message.stop_reason == "end_turn", message
assert message.usage.output_tokens > 5, message.usage

with client.messages.stream(model=model, max_tokens=300, messages=SUM) as stream:
    text = "".join(stream.text_stream)
    final = stream.get_final_message()
assert text == message.content[1].text
assert [block.type for block in final.content] == kinds, final
assert final.content[0].thinking == message.content[0].thinking
assert final.usage.output_tokens == message.usage.output_tokens

quiet = client.messages.create(
    model=model, max_tokens=300, messages=SUM, thinking={"type": "disabled"}
)
assert [block.type for block in quiet.content] == ["text"], quiet

forced = {"type": "tool", "name": "get_weather"}
called = client.messages.create(
    model=model, max_tokens=300, messages=SUM, tools=[WEATHER], tool_choice=forced
)
use = called.content[-1]
assert use.type == "tool_use" and called.stop_reason == "tool_use", called
assert isinstance(use.input["city"], str) and isinstance(use.input["days"], int), use
with client.messages.stream(
    model=model, max_tokens=300, messages=SUM, tools=[WEATHER], tool_choice=forced
) as stream:
    parts = [event.partial_json for event in stream if event.type == "input_json"]
    final = stream.get_final_message()
assert parts and final.content[-1].input == use.input, final
history = SUM + [
    {"role": "assistant", "content": [block.to_dict() for block in called.content]},
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "sunny"}],
    },
]
client.messages.create(model=model, max_tokens=20, messages=history, tools=[WEATHER])

count = client.messages.count_tokens(model=model, messages=SUM).input_tokens
used = message.usage
assert count == used.input_tokens + (used.cache_read_input_tokens or 0), (count, used)

try:
    client.messages.create(model="other", max_tokens=1, messages=SUM)
except anthropic.NotFoundError as error:
    assert error.body["error"]["type"] == "not_found_error", error.body
else:
    raise AssertionError("another model was answered")
print("anthropic", anthropic.__version__, "passes")
