# Engine layer: what an engine's own script fetches with pip. The first stage sees
# the host's certificates and package index settings (host/); only what the script
# put below /engine leaves it, where it is to be below /.
FROM @BASE@ AS fetch
COPY host/ /host/
RUN sh /host/fetch.sh

FROM @BASE@
COPY --from=fetch /engine/ /
LABEL factory.layer=engine factory.inputs=@INPUTS@
