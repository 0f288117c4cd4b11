// dcmjs-dimse as a peer: node peer.js serve PORT, or node peer.js call PORT with a list of steps on stdin.
//
// Prints a line of JSON for each thing that happened. A step is ["echo"], ["store", FILE], ["find"],
// ["get", STUDY_INSTANCE_UID] or ["move", DESTINATION, STUDY_INSTANCE_UID]; all of them go over one association,
// for which an asynchronous operations window and a user identity are proposed.
'use strict';
const dimse = require('dcmjs-dimse');
const { CEchoRequest, CFindRequest, CGetRequest, CMoveRequest, CStoreRequest } = dimse.requests;
const { CEchoResponse, CFindResponse, CStoreResponse } = dimse.responses;
const { PresentationContextResult, Status, TransferSyntax, UserIdentityType } = dimse.constants;

dimse.log.setLevel('silent');
const tell = (fact) => process.stdout.write(JSON.stringify(fact) + '\n');
const uidOf = (command) => command.getAffectedSopInstanceUid();

class Archive extends dimse.Scp {
  associationRequested(association) {
    tell({ associated: association.getCallingAeTitle(), window: association.getNegotiateAsyncOps() });
    for (const { id } of association.getPresentationContexts()) {
      const context = association.getPresentationContext(id);
      const syntax = context.getTransferSyntaxUids()
        .find((uid) => uid === TransferSyntax.ExplicitVRLittleEndian || uid === TransferSyntax.ImplicitVRLittleEndian);
      if (syntax) context.setResult(PresentationContextResult.Accept, syntax);
      else context.setResult(PresentationContextResult.RejectTransferSyntaxesNotSupported);
    }
    if (association.getNegotiateUserIdentity() && association.getUserIdentityPositiveResponseRequested()) {
      tell({ user: association.getUserIdentityPrimaryField() });
      association.setUserIdentityServerResponse('');
      association.setNegotiateUserIdentityServerResponse(true);
    }
    this.sendAssociationAccept();
  }

  cEchoRequest(request, callback) {
    const response = CEchoResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cStoreRequest(request, callback) {
    tell({ stored: uidOf(request), patient: request.getDataset().getElement('PatientID') });
    const response = CStoreResponse.fromRequest(request);
    response.setStatus(Status.Success);
    callback(response);
  }

  cFindRequest(request, callback) {
    const matches = ['1.2.0', '1.2.1'].map((uid) => {
      const match = CFindResponse.fromRequest(request);
      match.setDataset(new dimse.Dataset({ QueryRetrieveLevel: 'STUDY', StudyInstanceUID: uid, PatientID: 'P1' }));
      match.setStatus(Status.Pending);
      return match;
    });
    const last = CFindResponse.fromRequest(request);
    last.setStatus(Status.Success);
    callback([...matches, last]);
  }

  associationReleaseRequested() {
    this.sendAssociationReleaseResponse();
  }
}

function request([step, ...given]) {
  switch (step) {
    case 'echo': return new CEchoRequest();
    case 'store': return new CStoreRequest(given[0]);
    case 'find': return CFindRequest.createStudyFindRequest({ PatientID: 'P1', StudyInstanceUID: '' });
    case 'get': return CGetRequest.createStudyGetRequest(given[0]);
    case 'move': return CMoveRequest.createStudyMoveRequest(...given);
    default: throw new Error(`no such step: ${step}`);
  }
}

function call(port, steps) {
  const client = new dimse.Client();
  for (const step of steps) {
    const asked = request(step);
    asked.on('response', (response) => {
      const status = response.getStatus();
      const found = step[0] === 'find' && response.hasDataset() && response.getDataset().getElement('StudyInstanceUID');
      tell({ step: step[0], status, ...(found ? { found } : {}) });
    });
    client.addRequest(asked);
  }
  client.on('cStoreRequest', (store, callback) => {
    tell({ got: uidOf(store), patient: store.getDataset().getElement('PatientID') });
    const response = CStoreResponse.fromRequest(store);
    response.setStatus(Status.Success);
    callback(response);
  });
  client.on('associationAccepted', (association) => tell({ accepted: association.getCalledAeTitle() }));
  client.on('associationRejected', (why) => tell({ rejected: why }));
  client.on('associationReleased', () => tell({ released: true }));
  client.on('networkError', (error) => tell({ failed: error.message }));
  client.on('closed', () => process.exit(0));
  client.send('127.0.0.1', port, 'DCMJS', 'PACS', {
    asyncOps: { maxAsyncOpsInvoked: 4, maxAsyncOpsPerformed: 4 },
    userIdentity: {
      type: UserIdentityType.UsernameAndPasscode, positiveResponseRequested: true,
      primaryField: 'anna', secondaryField: 'secret',
    },
  });
}

const [, , mode, port] = process.argv;
if (mode === 'serve') {
  const server = new dimse.Server(Archive);
  server.on('networkError', () => {});
  server.listen(Number(port));
} else {
  call(Number(port), JSON.parse(require('fs').readFileSync(0, 'utf8')));
}
