"""The napari plugin: one widget, sample data, a reader and writers, all through `diffatlas.session` and `diffatlas.io`.

``forms`` are what a user fills in, and know no viewer but for the region's box; ``viewer`` alone touches the viewer;
``jobs`` run the engine in threads and know no Qt but for the runner; ``tabs`` join them, and `widget` holds the tabs.
`commands` are what menus and keys do with the widget, `function` is the plugin for scripts.
"""
