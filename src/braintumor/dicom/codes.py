"""Define the codes that results use: those of the standard, as in pydicom's dictionaries, and our own for the rest."""

from typing import Final

from braintumor.dicom.coding import Code

MANUFACTURER: Final = "braintumor"
"""Manufacturer of every result; results are recognised as ours by it, and never classified."""

RESEARCH_ONLY: Final = "Research use only. Not for diagnostic use. Not verified by a reader."

OWN: Final = "99BTMRI"  # private coding schemes begin with 99 (PS3.3 8.2)
OWN_NAME: Final = "braintumor: classes and decisions of a brain MRI classifier"

# Contributing equipment and images (context groups 7005, 7202, 7203, 7180)
PROCESSING_EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")
SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
CALCULATION: Final = Code("112187", "DCM", "Unspecified method of calculation")
CLASS_ACTIVATION: Final = Code("130403", "DCM", "Gradient-weighted class activation")
QUANTITY: Final = Code("246205007", "SCT", "Quantity")
NO_UNITS: Final = Code("1", "UCUM", "no units")

# Structured report (PS3.16, templates 1001, 1204, 1500, 1501, 1600, 4019)
REPORT: Final = Code("126000", "DCM", "Imaging Measurement Report")
LANGUAGE: Final = Code("121049", "DCM", "Language of Content Item and Descendants")
ENGLISH: Final = Code("en-US", "RFC5646", "English (United States)")
OBSERVER_TYPE: Final = Code("121005", "DCM", "Observer Type")
DEVICE: Final = Code("121007", "DCM", "Device")
DEVICE_UID: Final = Code("121012", "DCM", "Device Observer UID")
DEVICE_NAME: Final = Code("121013", "DCM", "Device Observer Name")
DEVICE_MANUFACTURER: Final = Code("121014", "DCM", "Device Observer Manufacturer")
DEVICE_MODEL: Final = Code("121015", "DCM", "Device Observer Model Name")
DEVICE_SERIAL: Final = Code("121016", "DCM", "Device Observer Serial Number")
PROCEDURE: Final = Code("121058", "DCM", "Procedure reported")
MRI: Final = Code("25056-3", "LN", "MRI unspecified body region")
IMAGING: Final = Code("363679005", "SCT", "Imaging procedure")
IMAGE_LIBRARY: Final = Code("111028", "DCM", "Image Library")
IMAGE_GROUP: Final = Code("126200", "DCM", "Image Library Group")
SOURCE: Final = Code("260753009", "SCT", "Source")
MODALITY: Final = Code("121139", "DCM", "Modality")
MODALITIES: Final = {
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "OT": Code("OT", "DCM", "Other"),
}
MEASUREMENTS: Final = Code("126010", "DCM", "Imaging Measurements")
GROUP: Final = Code("125007", "DCM", "Measurement Group")
TRACKING: Final = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID: Final = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site")
BRAIN: Final = Code("12738006", "SCT", "Brain")
ALGORITHM_NAME: Final = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION: Final = Code("111003", "DCM", "Algorithm Version")
ALGORITHM_FAMILY: Final = Code("111000", "DCM", "Algorithm Family")
ARTIFICIAL_INTELLIGENCE: Final = Code("123110", "DCM", "Artificial Intelligence")
PROBABILITY: Final = Code("122157", "DCM", "Probability")
SOURCE_OF_MEASUREMENT: Final = Code("121112", "DCM", "Source of Measurement")
COMMENT: Final = Code("121106", "DCM", "Comment")

# Our own: neither pydicom nor highdicom has codes for these tumors, and a standard code made up here could be wrong.
# A class is no finding: the meanings say "class", so that nobody reads a diagnosis into "No tumor".
CLASS: Final = Code("class", OWN, "Class of the classifier")
CLASSES_OF: Final = {
    "glioma": Code("glioma", OWN, "Glioma"),
    "meningioma": Code("meningioma", OWN, "Meningioma"),
    "pituitary": Code("pituitary", OWN, "Pituitary tumor"),
    "no_tumor": Code("no-tumor-class", OWN, "No tumor class"),
}
DECISION: Final = Code("decision", OWN, "Decision of the classifier")
DECISIONS: Final = {
    "glioma": Code("d-glioma", OWN, "Glioma class predicted on this slice"),
    "meningioma": Code("d-meningioma", OWN, "Meningioma class predicted on this slice"),
    "pituitary": Code("d-pituitary", OWN, "Pituitary tumor class predicted on this slice"),
    "no_tumor": Code("d-no-tumor-class", OWN, "No tumor class predicted on this slice"),
    "refer": Code("d-refer", OWN, "Referred to a reader"),
}
REASON: Final = Code("reason", OWN, "Reason for referral")
OOD_SCORE: Final = Code("ood_score", OWN, "Unlikeness to the training images")
IN_PREDICTION_SET: Final = Code("prediction-set", OWN, "Class in the prediction set")
