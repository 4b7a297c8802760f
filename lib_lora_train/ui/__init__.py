"""The tab: made from the settings' table, the same in a WebUI and alone, under Gradio 3 and 4."""
