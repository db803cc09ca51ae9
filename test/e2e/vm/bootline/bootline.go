// Package bootline is what the harness tells a guest on its kernel command line.
package bootline

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// ProbeMark is what a guest that boots only as a probe prints before it powers off.
const ProbeMark = "datera-csi-guest-boots"

// Names of the devices that the agent looks for.
const (
	RootDisk  = "root"  // read-only file system of the image
	StateDisk = "state" // what this guest changes of it, kept over restarts
	Port      = "agent" // virtio-serial port of the command channel
)

// Machine is one guest's identity.
type Machine struct {
	Name      string
	Initiator string         // IQN that open-iscsi shows to targets
	Addresses []netip.Prefix // of eth0, eth1, in this order
	Probe     bool           // print ProbeMark, power off
}

// String is the part of the kernel command line that Parse reads.
func (m Machine) String() string {
	if m.Probe {
		return "vm.probe=1"
	}
	words := []string{"vm.name=" + m.Name, "vm.initiator=" + m.Initiator}
	for _, address := range m.Addresses {
		words = append(words, "vm.address="+address.String())
	}
	return strings.Join(words, " ")
}

// Parse reads a whole kernel command line; words that are not ours are the kernel's.
func Parse(line string) (Machine, error) {
	var m Machine
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "vm.probe":
			return Machine{Probe: true}, nil
		case "vm.name":
			m.Name = value
		case "vm.initiator":
			m.Initiator = value
		case "vm.address":
			address, err := netip.ParsePrefix(value)
			if err != nil {
				return Machine{}, fmt.Errorf("%s: %w", word, err)
			}
			m.Addresses = append(m.Addresses, address)
		}
	}
	if m.Name == "" {
		return Machine{}, errors.New("vm.name is missing")
	}
	return m, nil
}
