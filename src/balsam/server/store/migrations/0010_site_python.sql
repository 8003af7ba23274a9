-- major.minor of the Python that runs Apps at the Site, as its agent tells; NULL before that.
ALTER TABLE sites ADD COLUMN python TEXT;
