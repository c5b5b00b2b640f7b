"""Define the JSON of the service: names as in predictions.csv, lists as lists, missing values null."""

from pydantic import BaseModel, Field

from braintumor.classes import DISCLAIMER
from braintumor.errors import ReferralReason, Refusal


class Reason(BaseModel):
    """Why an answer is withheld: a code for programs and a text for people."""

    code: ReferralReason
    text: str


class PredictionAnswer(BaseModel):
    """One model's answer for one slice, under the names of predictions.csv."""

    image: str = Field(description="which file of the request, counted from 1; never the client's name of it")
    label: str | None = Field(description="the true class if it is known; always null here")
    predicted: str = Field(description="the most probable class")
    decision: str = Field(description="a class, or refer where the answer should not be used")
    reasons: list[Reason] = Field(description="why it is refer; empty otherwise")
    p_glioma: float = Field(ge=0, le=1)
    p_meningioma: float = Field(ge=0, le=1)
    p_pituitary: float = Field(ge=0, le=1)
    p_no_tumor: float = Field(ge=0, le=1)
    model: str = Field(description="name, version and precision")
    ood_score: float = Field(description="how unlike the training images it is, about 1 for those")
    prediction_set: list[str] = Field(
        description="classes that contain the true one at the requested error rate; empty if not requested"
    )
    notes: list[str] = Field(description="assumptions that were made in reading the slice")
    volume: str | None = Field(description="identifier that the slices of one volume share; null for a single image")
    slice: int | None = Field(description="its number in the volume, counted from 1; null for a single image")
    class_maps: list[list[list[float]]] | None = Field(
        description="4 x h x w, non-negative, unscaled; divide by the model's class_map_scale to show them"
    )


class SliceAnswer(BaseModel):
    """The predictions of the models for one slice."""

    file: int = Field(ge=0, description="number of the file in the request, counted from 0")
    member: int | None = Field(description="number of the member in the archive, counted from 0; null outside one")
    volume: str | None = Field(description="identifier that the slices of one volume share; null for a single image")
    number: int | None = Field(description="number of the slice in its volume, counted from 1")
    position: float | None = Field(description="millimetres along the normal of the slices, if the file tells it")
    notes: list[str] = Field(description="assumptions that were made in reading the slice")
    width: int
    height: int
    pixels: str | None = Field(description="base64 of a grey 8-bit PNG of the slice, if it was requested")
    agree: bool | None = Field(description="whether all models make the same decision; null for one model")
    predictions: list[PredictionAnswer]


class RefusedFile(BaseModel):
    """A file that could not be used."""

    file: int
    member: int | None
    code: Refusal
    text: str


class Predictions(BaseModel):
    """The response to a request: every file or member of an archive is in one of the lists."""

    disclaimer: str = DISCLAIMER
    slices: list[SliceAnswer]
    refused: list[RefusedFile]


class ProblemAnswer(BaseModel):
    """Why a request was not answered."""

    detail: str
    refused: list[RefusedFile] = Field(default_factory=list)


class ReasonTitle(BaseModel):
    """A reason to refer, and its title in counts of slices."""

    code: ReferralReason
    title: str


class ClassName(BaseModel):
    """A class, in the order of the class maps."""

    name: str
    title: str


class Scale(BaseModel):
    """How class maps are displayed."""

    evidence: float = Field(description="share of the scale; a map below it everywhere shows no evidence")
    opacity: float
    colours: list[tuple[float, tuple[int, int, int]]] = Field(description="share of the scale and its colour, 0 to 255")


class Limits(BaseModel):
    """What is accepted."""

    file_bytes: int
    request_bytes: int
    pixels: int
    slices: int
    results: int = Field(description="slices for which one request may ask for DICOM results")


class ModelAnswer(BaseModel):
    """A model that answers."""

    name: str
    identity: str
    architecture: str
    input_pixels: int
    class_map_scale: float
    coverage: float | None = Field(
        description="share of in-distribution images that is answered; null if it was never fitted"
    )
    confidence: float = Field(description="lowest probability of a predicted class that is not referred")
    ood_threshold: float | None = Field(description="OOD score above which an image is referred; null for never")
    far_ood_threshold: float | None = Field(
        description="OOD score above which an image is classified as not a brain MRI; null for never"
    )
    card: dict[str, object]


class ModelList(BaseModel):
    """The models of the service, and how to display their answers."""

    disclaimer: str = DISCLAIMER
    version: str
    classes: list[ClassName]
    reasons: list[ReasonTitle]
    scale: Scale
    limits: Limits
    dicom: bool = Field(description="whether DICOM results are available")
    models: list[ModelAnswer]
