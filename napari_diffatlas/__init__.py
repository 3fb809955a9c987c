"""The napari plugin: one widget, sample data, a reader and writers, all through `diffatlas.session` and `diffatlas.io`.

`_panel` is the form and knows no viewer; `_scene` alone touches the viewer, with the values of `_layers`; `_worker`
runs the engine and knows no Qt, `_recording` keeps its steps; `_segment` joins them to a tab, `_runner` sees to it that
one run at a time is on its way, `_widget` holds the tabs.
"""
