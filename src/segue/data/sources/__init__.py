"""Data sources: one file per source; its name, with ``-`` for ``_``, is the key.

A source in an archive defines ``ABOUT`` (one line of description), ``ARCHIVE`` (an
:class:`segue.data.archives.ArchiveSpec`: how to recognize and download it) and ``read(archive, settings) -> RawLog``. A
source that generates its data defines ``ABOUT`` and ``write(settings, folder, log)``, which fills ``folder`` through a
:class:`segue.data.writer.DatasetWriter`, in chunks and constant memory.

A source that also reads the archives of other sources lists their keys in ``USES``; ``read`` gets these archives after
``settings``.

``settings`` are the texts after ``?`` in ``key?name=value&name=value``. The source of an archive lists its settings and
their values in ``SETTINGS``; a source that generates its data validates its settings itself.
"""
