//go:build linux

package tun

import wgtun "github.com/tailscale/wireguard-go/tun"

// steadyDevice keeps from the engine that the interface went up or down. The engine would close and open its socket each time, and
// setting an MTU or an address counts as such an event: the outer port is ours for as long as we live.
type steadyDevice struct {
	wgtun.Device
	events chan wgtun.Event
}

func steady(t wgtun.Device) wgtun.Device {
	s := &steadyDevice{Device: t, events: make(chan wgtun.Event)}
	go func() {
		defer close(s.events)
		for e := range t.Events() {
			if e &= wgtun.EventMTUUpdate; e != 0 {
				s.events <- e
			}
		}
	}()
	return s
}

func (s *steadyDevice) Events() <-chan wgtun.Event { return s.events }
