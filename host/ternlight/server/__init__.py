"""An HTTP server of the OpenAI API on a device: many clients at once, mapped onto its session slots."""
