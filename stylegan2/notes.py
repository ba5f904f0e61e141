"""What a log tells that is worth knowing, but no fault."""

NOTE = {"is_note": True}
"""`extra` of a log record of level WARNING, so that it is shown: `log.warning(..., extra=NOTE)`."""
