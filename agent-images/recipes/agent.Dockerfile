# Last layer, the one that changes most often: pid 1 of every agent container
# and the places that are mounted over.
FROM @BASE@
COPY rootfs/ /
LABEL factory.layer=agent factory.inputs=@INPUTS@
