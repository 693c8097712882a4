"""Features and metrics of drawn covers; OCR of their titles."""
