package auto

import (
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/kernel"
	"github.com/tenantwire/tenantwire/sidecar/tun"
)

func systemOpeners() []opener {
	return []opener{
		{datapath.Kernel, kernel.Probe, func(o Options) (datapath.Datapath, error) { return opened(kernel.Open(kernel.Options(o))) }},
		{datapath.TUN, tun.Probe, func(o Options) (datapath.Datapath, error) { return opened(tun.Open(tun.Options(o))) }},
	}
}
