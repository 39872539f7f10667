package doctor

import "slices"

// Checks are all there are, the installation's first. Their names stay the same: scripts may look for them.
func Checks() []Check {
	return slices.Concat(installationChecks, certificateChecks, clockChecks, admissionChecks, tunnelChecks, serviceChecks, peerChecks, gatewayChecks,
		networkChecks, liveChecks, pathChecks)
}
