#!/bin/bash
# What the scripts of the VM lab share; they source it. Nothing runs here.

# Everything that is built or downloaded stays outside the checkout.
# shellcheck disable=SC2034 # for those who source this
LAB_CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/tcptrace/vagrant

say() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }

fail() { # MESSAGE...: what is missing, what that prevents, what to type
	say "$@"
	exit 1
}

need() { # COMMAND PACKAGE...: the packages (on Debian) that bring a command we cannot do without
	command -v "$1" >/dev/null || fail "the command $1 is missing; on Debian: sudo apt install ${*:2}"
}

debian_sources() { # SUITE: lines for sources.list, with the mirrors that this machine's own apt uses
	local suite=$1 main security keyring=/usr/share/keyrings/debian-archive-keyring.gpg
	if [ -n "${TCPTRACE_MIRROR:-}" ]; then
		main=$TCPTRACE_MIRROR security=${TCPTRACE_SECURITY_MIRROR:-}
	else
		main=$(debian_uri Debian) security=$(debian_uri Debian-Security)
	fi
	if [ -z "$main" ] || [ ! -e "$keyring" ]; then
		say "this machine's apt knows no Debian mirror; set TCPTRACE_MIRROR (and TCPTRACE_SECURITY_MIRROR) to the" \
			"address of one, and install debian-archive-keyring"
		return 1
	fi
	echo "deb [signed-by=$keyring] $main $suite main"
	[ -z "$security" ] || echo "deb [signed-by=$keyring] $security $suite-security main"
}

debian_uri() { # LABEL: where apt fetches the archive of this label from; nothing when it does not
	command -v apt-get >/dev/null || return 0
	# shellcheck disable=SC2016 # apt replaces it
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' "Label: $1" 2>/dev/null |
		sed -n 1p
}
