"""Bodies of requests. What is not served is refused by name, in place of being ignored."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
Text = Annotated[str, Field(min_length=1)]


def _absent(value: object) -> object:
    """Takes values that ask for nothing."""
    if value in (None, False, 0, 0.0, 1, "", [], {}):
        return None
    raise ValueError("this server does not offer it; leave it out")


def _one(value: object) -> object:
    if value in (None, 1) and value is not True:
        return None
    raise ValueError("this server gives one answer; leave it out, or say 1")


Unserved = Annotated[Any, BeforeValidator(_absent)]
One = Annotated[Any, BeforeValidator(_one)]


class Body(BaseModel):
    """Numbers have to be numbers; what a client sends beside what is known is ignored."""

    model_config = ConfigDict(allow_inf_nan=False, extra="ignore")


class Strict(Body):
    """Own fields: a name that is not known is an error."""

    model_config = ConfigDict(allow_inf_nan=False, extra="forbid")


class SaaOptions(Strict):
    """What SAA may be told about a request.

    Args:
        policy: a name of the model's policies, "dense", or fields that replace those of its own.
        cut: cut texts to what the task was made for, in place of refusing them.
    """

    policy: str | dict[str, Any] | None = None
    cut: bool = False


class StreamOptions(Body):
    include_usage: bool = False


class Generation(Body):
    """What both kinds of completion share."""

    model: Text
    stream: bool = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    seed: Seed | None = None
    stop: (
        str | Annotated[list[Annotated[str, Field(max_length=200)]], Field(max_length=4)] | None
    ) = None
    saa: SaaOptions = SaaOptions()
    n: One = None
    frequency_penalty: Unserved = None
    presence_penalty: Unserved = None
    logit_bias: Unserved = None
    logprobs: Unserved = None
    top_logprobs: Unserved = None


class Completion(Generation):
    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=1)]
    max_tokens: int | None = Field(None, ge=1)
    best_of: One = None
    echo: Unserved = None
    suffix: Unserved = None


class TextPart(Body):
    type: Literal["text"]
    text: str


class ChatMessage(Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1)]

    @property
    def text(self) -> str:
        return (
            self.content if isinstance(self.content, str) else "".join(p.text for p in self.content)
        )


class ChatCompletion(Generation):
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=256)]
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    tools: Unserved = None
    functions: Unserved = None
    response_format: Unserved = None
    audio: Unserved = None


class Embedding(Body):
    model: Text
    input: Text | Annotated[list[Text], Field(min_length=1)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Unserved = None
    saa: SaaOptions = SaaOptions()

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class Classification(Body):
    """vLLM's."""

    model: Text
    input: Text | Annotated[list[Text], Field(min_length=1)]
    saa: SaaOptions = SaaOptions()

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


class RunBody(Strict):
    """``/saa/v1/run``; ``record`` says how much of the decisions the trace holds."""

    model: Text
    text: Text
    record: Literal["full", "summary"] = "full"
    saa: SaaOptions = SaaOptions()


class CompareBody(Strict):
    """``damage`` damages the gates of a copy, to see what a guard does about it."""

    model: Text
    text: Text
    damage: str | None = None
    saa: SaaOptions = SaaOptions()


class MeasureBody(Strict):
    model: Text
    lengths: list[int] = Field(default_factory=list)
    repeats: int = 5
    text: Text | None = None
    saa: SaaOptions = SaaOptions()


class TextBody(Strict):
    model: Text
    text: Text
    saa: SaaOptions = SaaOptions()


class EffectsBody(TextBody):
    layer: int
    head: int | None = None
