#!/usr/bin/env bash
# Unpacks Debian's Python and NumPy for aarch64 into FOLDER/root, without installing them: 23 MB, once.
set -eu
mkdir -p "$1"
cd "$1"
if [ -d root ]; then exit 0; fi
mkdir -p lists/partial archives/partial sources
touch status
echo 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian bookworm main' \
    >sources/debian.list
cat >apt.conf <<END
APT::Architecture "arm64";
APT::Architectures { "arm64"; };
Dir::State "$PWD";
Dir::State::lists "$PWD/lists";
Dir::State::status "$PWD/status";
Dir::Cache "$PWD";
Dir::Cache::archives "$PWD/archives";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$PWD/sources";
END
export APT_CONFIG="$PWD/apt.conf"
apt-get update -qq
apt-get install -qq --download-only --no-install-recommends python3 python3-numpy >/dev/null
mkdir unpacked
for package in archives/*.deb; do dpkg-deb --extract "$package" unpacked; done
mv unpacked root
