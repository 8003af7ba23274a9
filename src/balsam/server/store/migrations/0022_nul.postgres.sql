-- PostgreSQL's functions refuse a whole document for one NUL that stands anywhere in it, although only a text with a NUL
-- can't be a text here. So documents are read with another escape in its place, which our JSON never has. And a number of
-- more digits than a double has room for is the largest double, or comparing it with one would be an error.
CREATE FUNCTION json_doc(doc TEXT) RETURNS json LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(doc, '\u0000') = 0 THEN doc::json
        ELSE regexp_replace(doc, '(?<!\\)((?:\\\\)*)\\u0000', '\1\\ufdd0', 'g')::json END
$$;
CREATE OR REPLACE FUNCTION json_at(doc TEXT, path TEXT[]) RETURNS json LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    found json := json_doc(doc);
    key TEXT;
BEGIN
    FOREACH key IN ARRAY path LOOP
        IF json_typeof(found) <> 'object' THEN
            RETURN NULL;
        END IF;
        found := found -> key;
    END LOOP;
    RETURN found;
END $$;
CREATE OR REPLACE FUNCTION json_words(value json) RETURNS TEXT LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN strpos(value::text, '\ufdd0') = 0 THEN value #>> '{}' END
$$;
CREATE OR REPLACE FUNCTION json_amount(value json) RETURNS NUMERIC LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE WHEN json_typeof(value) <> 'number' THEN NULL
        WHEN length(value::text) >= 309 AND value::text ~ '^-?[0-9]+$'
            THEN CASE WHEN value::text LIKE '-%' THEN -1.7976931348623157e308 ELSE 1.7976931348623157e308 END
        ELSE value::text::numeric END
$$;
