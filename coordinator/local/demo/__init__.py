"""`logstore demo`: a real stream, a forecast, a move before the peak, an independent check."""
