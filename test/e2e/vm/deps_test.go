package vm

import (
	"errors"
	"testing"
)

func TestAMachineOfAnotherArchitectureIsToldSo(t *testing.T) {
	err := check("arm64")
	if !errors.Is(err, ErrUnavailable) || err.Error() != "guests cannot run on this host: they and the control plane are of amd64, and it is of arm64" {
		t.Errorf("got %v", err)
	}
}
