"""The `openai` package against a server of the built-in model: openai_client.py URL"""

import json
import sys

import openai
from pydantic import BaseModel

client = openai.OpenAI(base_url=sys.argv[1] + "/v1", api_key="none", max_retries=0)
SUM = [{"role": "user", "content": "What is 7 + 5?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 3]}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
FORCED = {"type": "function", "function": {"name": "get_weather"}}

model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model

answer = client.chat.completions.create(model=model, messages=SUM)
message = answer.choices[0].message
assert "12" in message.content, message
assert message.reasoning_content, message
assert answer.usage.completion_tokens_details.reasoning_tokens > 0, answer.usage
assert answer.choices[0].finish_reason == "stop"

text, thought, usage = "", "", None
for chunk in client.chat.completions.create(
    model=model, messages=SUM, stream=True, stream_options={"include_usage": True}
):
    if chunk.usage:
        usage = chunk.usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        thought += getattr(choice.delta, "reasoning_content", None) or ""
assert (text, thought) == (message.content, message.reasoning_content), (text, thought)
assert usage.total_tokens == answer.usage.total_tokens, usage

called = client.chat.completions.create(
    model=model, messages=SUM, tools=[WEATHER], tool_choice=FORCED, max_tokens=300
)
call = called.choices[0].message.tool_calls[0]
arguments = json.loads(call.function.arguments)
assert isinstance(arguments["city"], str) and isinstance(arguments["days"], int), arguments
assert called.choices[0].finish_reason == "tool_calls"
history = SUM + [
    called.choices[0].message.to_dict(),
    {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
]
client.chat.completions.create(model=model, messages=history, tools=[WEATHER], max_tokens=20)

with client.chat.completions.stream(
    model=model, messages=SUM, tools=[WEATHER], tool_choice=FORCED, max_tokens=300
) as stream:
    for event in stream:
        pass
    final = stream.get_final_completion()
assert json.loads(final.choices[0].message.tool_calls[0].function.arguments) == arguments


class Sum(BaseModel):
    left: int
    right: int


parsed = client.chat.completions.parse(
    model=model, messages=SUM, response_format=Sum, reasoning_effort="none", max_tokens=600
)
assert isinstance(parsed.choices[0].message.parsed, Sum), parsed

completion = client.completions.create(model=model, prompt="The sky is", max_tokens=5, logprobs=2)
assert len(completion.choices[0].logprobs.tokens) == 5, completion
pieces = client.completions.create(model=model, prompt="The sky is", max_tokens=5, stream=True)
assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text

response = client.responses.create(model=model, input="What is 7 + 5?")
assert "12" in response.output_text and response.status == "completed", response
assert response.output[0].type == "reasoning", response
kept = client.responses.retrieve(response.id)
assert kept.output_text == response.output_text
following = client.responses.create(
    model=model, input="And 2 + 3?", previous_response_id=response.id
)
assert following.usage.input_tokens > response.usage.input_tokens
with client.responses.stream(model=model, input="What is 7 + 5?") as stream:
    kinds = [event.type for event in stream]
    final = stream.get_final_response()
assert final.output_text == response.output_text
assert kinds[0] == "response.created" and kinds[-1] == "response.completed", kinds
flat = {"type": "function", **WEATHER["function"]}
called = client.responses.create(
    model=model,
    input="What is 7 + 5?",
    tools=[flat],
    tool_choice={"type": "function", "name": "get_weather"},
    max_output_tokens=300,
)
call = called.output[-1]
assert call.type == "function_call" and "city" in json.loads(call.arguments), call
client.responses.create(
    model=model,
    previous_response_id=called.id,
    input=[{"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}],
    max_output_tokens=20,
)
shaped = client.responses.parse(
    model=model, input="What is 7 + 5?", text_format=Sum, reasoning={"effort": "none"}
)
assert isinstance(shaped.output_parsed, Sum), shaped
client.responses.delete(response.id)

for wrong, kind in [
    ({"messages": SUM, "model": "other"}, openai.NotFoundError),
    ({"messages": [], "model": model}, openai.BadRequestError),
    ({"messages": SUM, "model": model, "temperature": -1}, openai.BadRequestError),
]:
    try:
        client.chat.completions.create(**wrong)
    except kind as error:
        assert error.body["message"], error
    else:
        raise AssertionError(f"{wrong} was taken")
print("openai", openai.__version__, "passes")
