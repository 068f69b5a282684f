"""The browser program: one file a tab, no mathematics."""
