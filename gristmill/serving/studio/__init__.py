"""The chat page: NiceGUI on the same app and the same engine thread as the API; needs no other host."""
