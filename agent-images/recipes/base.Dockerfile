# Base layer on top of an image the engine has: what git-driven agents need,
# and the repository's own packages, from the base's own package manager.
# @BASE@ and @PACKAGES@ are filled in.
FROM @BASE@
LABEL factory.image=1 factory.layer=base factory.inputs=@INPUTS@
USER 0:0
RUN set -e; \
    if command -v apt-get >/dev/null; then \
      export DEBIAN_FRONTEND=noninteractive; \
      apt-get -q update; \
      apt-get -q -y --no-install-recommends install @PACKAGES@; \
      rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/apt/archives/*.deb \
        /var/log/apt /var/log/dpkg.log /var/log/alternatives.log; \
    elif command -v apk >/dev/null; then \
      apk add --no-cache @PACKAGES@; \
    elif command -v dnf >/dev/null; then \
      dnf -y --setopt=install_weak_deps=False --allowerasing install @PACKAGES@; \
      dnf clean all; \
    elif command -v git >/dev/null && [ -z "@ASKED@" ]; then \
      echo 'no package manager is known here; git is there, and no packages are asked for'; \
    else \
      echo 'image.base has neither apt-get nor apk nor dnf, so nothing can be installed in it:' \
        'use a base that has git and what is needed, and no image.packages' >&2; \
      exit 1; \
    fi
ENTRYPOINT []
