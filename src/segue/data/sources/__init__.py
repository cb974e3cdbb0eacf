"""One file per source; the file's name, with ``-`` for ``_``, is the key.

A source made from an archive has ``ABOUT`` (one line), ``ARCHIVE`` (a ``segue.data.archives.Archived``: the members it
is known by and where to download it) and ``read(archive, settings) -> Raw``. A source that makes its own data has
``ABOUT`` and ``write(settings, folder, say)``, which fills ``folder`` with a ``segue.data.writer.DatasetWriter`` in
chunks, in constant memory. ``settings`` are the texts behind ``?`` in ``key?name=value&name=value``; an archive's
source names those it understands, with the values they take, in ``SETTINGS``; one that makes its own data refuses what
it does not understand itself.
"""
