"""The napari plugin: one widget, sample data, a reader and writers, all through `diffatlas.session` and `diffatlas.io`.

`_panel` is the form and knows no viewer; `_layers` alone touches the viewer; `_worker` runs the engine and knows no Qt;
`_widget` joins the three.
"""
