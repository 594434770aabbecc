using UnityEditor;
using UnityEngine;

namespace Everscene.Editor
{
    /// <summary>The stream's inspector: its settings, how it fares, the scene's buttons, and the picture itself as preview.</summary>
    [CustomEditor(typeof(EversceneStream))]
    sealed class EversceneStreamEditor : UnityEditor.Editor
    {
        readonly EventButtons buttons = new EventButtons();

        EversceneStream Stream => (EversceneStream)target;

        public override bool RequiresConstantRepaint() => Stream.State == ClientState.Connected;

        public override void OnInspectorGUI()
        {
            DrawDefaultInspector();
            EditorGUILayout.Space();
            if (!Application.isPlaying && !Stream.PreviewInEditMode)
                EditorGUILayout.HelpBox("Press Play, or tick Preview In Edit Mode, to see the stream.", MessageType.Info);
            ReadOut.Draw(Stream.Client, Stream.Problem);
            if (Stream.Problem.Length > 0 && GUILayout.Button("Open the sidecar's window")) EversceneWindow.Open();
            buttons.Draw(Stream.Client);
            // Outside of Play mode Update comes only when something moves: this makes it come.
            if (!Application.isPlaying && Stream.PreviewInEditMode) EditorApplication.QueuePlayerLoopUpdate();
        }

        public override bool HasPreviewGUI() => Stream.Texture != null;

        public override GUIContent GetPreviewTitle() => new GUIContent("Everscene");

        public override void OnPreviewGUI(Rect area, GUIStyle background)
        {
            if (Event.current.type != EventType.Repaint || Stream.Texture == null) return;
            GUI.DrawTexture(area, Stream.Texture, ScaleMode.ScaleToFit, false);
        }

        public override string GetInfoString() =>
            "frame " + Stream.Frame.Number + ", " + Stream.Frame.Width + "×" + Stream.Frame.Height;
    }
}
