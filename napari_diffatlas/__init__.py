"""The napari plugin: one widget, sample data, a reader and writers, all through `diffatlas.session` and `diffatlas.io`.

``forms`` are what a user fills in; only the region's form knows a viewer. ``viewer`` alone changes the viewer. ``jobs``
run the engine in threads; only the runner knows Qt. ``tabs`` join them, and `widget` holds the tabs.
`commands` are what menus and keys do with the widget, `function` is the plugin for scripts.
"""
