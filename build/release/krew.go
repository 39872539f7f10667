package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// krewFile is what krew, the manager of kubectl's plugins, installs the client from.
const krewFile = "tenantwire.yaml"

const krewHead = `apiVersion: krew.googlecontainertools.github.com/v1alpha2
kind: Plugin
metadata:
  name: tenantwire
spec:
  version: %s
  homepage: %s
  shortDescription: Tunnels of TenantWire and their peers
  description: |
    Shows the tunnels of TenantWire with their members and peers and what is wrong with them, a pod's peers as wg show
    does, and what would be injected into a pod; adds and removes outside peers.
  platforms:
`

const krewPlatform = `  - selector:
      matchLabels:
        os: %s
        arch: %s
    uri: %s/releases/download/%s/%s
    sha256: %s
    bin: %s
`

func (r *release) makeKrew(context.Context) error {
	var b strings.Builder
	fmt.Fprintf(&b, krewHead, r.version, source)
	for _, p := range r.of(client) {
		file := archiveFile(p, r.version)
		sum, err := sumOf(filepath.Join(r.out, file))
		if err != nil {
			return err
		}
		fmt.Fprintf(&b, krewPlatform, p.os, p.arch, source, r.version, file, sum, programFile(p))
	}
	return os.WriteFile(filepath.Join(r.out, krewFile), []byte(b.String()), 0o644) //nolint:gosec // for everybody
}

// sumOf is a file's SHA-256 in hex.
func sumOf(file string) (string, error) {
	b, err := os.ReadFile(file) //nolint:gosec // a file of the release
	if err != nil {
		return "", err
	}
	return sumBytes(b), nil
}

func sumBytes(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
