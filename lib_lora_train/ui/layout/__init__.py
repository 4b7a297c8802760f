"""The layout of the tab, a module per section. Each function creates components inside gr.Blocks."""
