"""Client for a server with access control.  For others, Vizier's own `clients` suffice."""

from vizier import pyvizier as vz
from vizier._src.pyvizier.oss.proto_converters import ParameterConfigConverter
from vizier._src.service import resources, study_pb2, vizier_client, vizier_service_pb2, vizier_service_pb2_grpc
from vizier.service import clients
from vizier.service import pyvizier as svz

from optformer.serve.channels import Credentials, connect

_CLIENT = "unused"  # every `Study.suggest` names its own


class Service:
    """A Vizier service at an address.  Usable as a context manager:

        with Service("tuning.example.org:28080", token=token, authorities=pem) as service:
            study = service.study(config, owner="me", study_id="resnet")
            for trial in study.suggest(count=4, client_id="worker 1"): ...

    Closing it leaves the studies as they are.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        token: str | None = None,
        authorities: bytes | None = None,
        certificate: bytes | None = None,
        key: bytes | None = None,
        timeout: float = 10.0,
    ):
        """
        Args:
          endpoint: HOST:PORT.
          token: what the server's token file holds.
          authorities: PEM certificates that the server's must be signed by; none: no TLS.
          certificate: PEM, of this caller, where the server asks for one.
          key: PEM, of the certificate.
          timeout: seconds to wait for the server.

        Raises:
          OSError: it does not answer.
        """
        self._connection = connect(endpoint, Credentials(token, authorities, certificate, key), timeout)
        self.stub = vizier_service_pb2_grpc.VizierServiceStub(self._connection.channel)

    def study(self, config: svz.StudyConfig, *, owner: str, study_id: str) -> clients.Study:
        """The study of that name, made if there is none.  Raises grpc.RpcError where the server refuses."""
        spec = config.to_proto()
        for proto, parameter in zip(spec.parameters, config.search_space.parameters, strict=True):
            _restore_children(proto, parameter)
        study = study_pb2.Study(display_name=study_id, study_spec=spec)
        parent = resources.OwnerResource(owner).name
        made = self.stub.CreateStudy(vizier_service_pb2.CreateStudyRequest(parent=parent, study=study))
        return self.load(made.name)

    def load(self, name: str) -> clients.Study:
        """A study by its resource name, owners/OWNER/studies/STUDY."""
        return clients.Study(vizier_client.VizierClient(name, _CLIENT, self.stub))

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def _restore_children(proto: study_pb2.StudySpec.ParameterSpec, parameter: vz.ParameterConfig) -> None:
    """Vizier (0.1.24) writes children, but loses their children in turn."""
    for written, child in zip(proto.conditional_parameter_specs, parameter.child_parameter_configs, strict=True):
        if child.child_parameter_configs:
            ParameterConfigConverter._set_child_parameter_configs(written.parameter_spec, child)
            _restore_children(written.parameter_spec, child)
