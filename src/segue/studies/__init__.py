"""Research studies: one question per file, answered with trainings on a dataset.

A module of this package is a study, and its name is the key. It defines :data:`QUESTION`, the grids :data:`DEFAULT` and
:data:`FULL`, and the functions ``run``, ``tables``, ``figures`` and ``answer``; see
:class:`segue.studies.framework.study_modules.StudyModule`.
"""
